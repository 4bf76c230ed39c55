# What may be released. A release is allowed when `deny` is empty; each message says what is wrong.
package hive

deny contains "there is no artifact to release" if not input.artifact

deny contains message if {
	input.artifact.size_bytes > input.input.max_size_bytes
	message := sprintf(
		"%s has %d bytes, and %d are allowed",
		[input.artifact.file, input.artifact.size_bytes, input.input.max_size_bytes],
	)
}

deny contains message if {
	not regex.match(`^[a-z][a-z0-9-]*-[0-9]+\.[0-9]+\.[0-9]+$`, input.input.release)
	message := sprintf("%s is not a release name such as hello-1.2.0", [input.input.release])
}
