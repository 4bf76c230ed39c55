"""A workload that knows SPIFFE through py-spiffe, and does what it is told.

It reads one order a line from standard input, as JSON, and writes one answer a line to standard output. It ends with
its input. Tokens travel in these lines and nowhere else. TLS is the interpreter's own, with py-spiffe's documents.
"""

import hashlib
import json
import os
import socket
import ssl
import sys
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source

# No order may take longer; the tests that give them wait somewhat longer than that.
DEADLINE_S = 15


class Workload:
    """What this process is, kept current by py-spiffe's own watchers."""

    def attach(self, given):
        self.client = WorkloadApiClient(given["address"], default_timeout=DEADLINE_S)
        self.x509_source = X509Source(self.client, timeout_in_seconds=DEADLINE_S)
        self.jwt_source = JwtSource(self.client, timeout_in_seconds=DEADLINE_S)
        return self.x509(given)

    def current(self):
        """The SVID and the bundle of this moment, which belong together."""
        context = self.x509_source.get_x509_context()
        svid = context.default_svid
        domain = svid.spiffe_id.trust_domain
        return svid, context.x509_bundle_set.get_bundle_for_trust_domain(domain)

    def x509(self, _given):
        """The same, once the one was verified with the other."""
        svid, bundle = self.current()
        authorities = bundle.x509_authorities
        if not any(issued(svid.cert_chain[-1], authority) for authority in authorities):
            raise ValueError("the X.509-SVID does not lead to the bundle")
        digests = [hashlib.sha256(der(authority)).hexdigest() for authority in authorities]
        serial = format(svid.leaf.serial_number, "x")
        return {"spiffe_id": str(svid.spiffe_id), "serial": serial, "authorities": sorted(digests)}

    def keys(self, _given):
        svid, _ = self.current()
        bundle = self.jwt_source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        return {"keys": sorted(bundle.jwt_authorities)}

    def fetch(self, given):
        svid = self.jwt_source.fetch_svid({given["audience"]})
        return {"token": svid.token, "spiffe_id": str(svid.spiffe_id)}

    def verify(self, given):
        """By the bundle that is held here."""
        token, audience = given["token"], {given["audience"]}
        # Only the bundle of the trust domain that the token names can make it believed.
        domain = JwtSvid.parse_insecure(token, audience).spiffe_id.trust_domain
        bundle = self.jwt_source.get_bundle_for_trust_domain(domain)
        svid = JwtSvid.parse_and_validate(token, bundle, audience)
        return {"spiffe_id": str(svid.spiffe_id)}

    def validate(self, given):
        """By the Workload API."""
        svid = self.client.validate_jwt_svid(given["token"], given["audience"])
        return {"spiffe_id": str(svid.spiffe_id)}

    def serve(self, given):
        """Serves until the process ends: sends each line back, behind the SPIFFE ID of whoever sent it."""
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, args=(listener, given["peer"]), daemon=True).start()
        host, port = listener.getsockname()
        return {"address": f"{host}:{port}"}

    def accept(self, listener, client):
        while True:
            plain, _ = listener.accept()
            plain.settimeout(DEADLINE_S)
            try:
                with self.tls(ssl.PROTOCOL_TLS_SERVER).wrap_socket(plain, server_side=True) as stream:
                    peer = spiffe_id(stream)
                    if peer == client:
                        stream.sendall(f"{peer} {read_line(stream)}\n".encode())
            except OSError as error:
                print(error, file=sys.stderr)

    def call(self, given):
        """Sends one line and says what came back, and from whom."""
        host, port = given["address"].rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        with self.tls(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(plain) as stream:
            peer = spiffe_id(stream)
            if peer != given["peer"]:
                raise ValueError(f"the server is {peer}")
            stream.sendall(b"hello\n")
            return {"peer": peer, "line": read_line(stream)}

    def tls(self, side):
        """TLS with the documents of this moment, made for each handshake."""
        svid, bundle = self.current()
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Workloads are known by their SPIFFE IDs.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=b"".join(der(one) for one in bundle.x509_authorities))
        # The interpreter takes keys from files only; a temporary one is its owner's alone.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            for certificate in svid.cert_chain:
                file.write(certificate.public_bytes(Encoding.PEM))
            file.write(svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            context.load_cert_chain(file.name)
        return context


def issued(certificate, authority):
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:
        return False
    return True


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


def spiffe_id(stream):
    certificate = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (only,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return only


def read_line(stream):
    with stream.makefile("r", encoding="utf-8", newline="\n") as lines:
        line = lines.readline()
    if not line.endswith("\n"):
        raise OSError("the connection ended before its line did")
    return line.rstrip("\n")


def main():
    workload = Workload()
    orders = {"attach", "x509", "keys", "fetch", "verify", "validate", "serve", "call"}
    for line in sys.stdin:
        try:
            given = json.loads(line)
            if given["do"] not in orders:
                raise ValueError(f"there is no order {given['do']!r}")
            said = getattr(workload, given["do"])(given)
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)
    # The watchers of py-spiffe would keep the interpreter alive.
    os._exit(0)


if __name__ == "__main__":
    main()
