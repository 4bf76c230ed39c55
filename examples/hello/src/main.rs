//! `hello [NAME]… | --version`: greets, and says which version greets.

use std::process::ExitCode;

const USAGE: &str = "usage: hello [NAME]… | --version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match answer(&arguments) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(64)
        }
    }
}

fn answer(arguments: &[String]) -> Result<String, String> {
    match arguments {
        [] => Ok(greeting(&["world"])),
        [option] if option == "--version" => Ok(version()),
        [option, ..] if option.starts_with('-') => Err(format!("hello: unknown option {option}")),
        names => Ok(greeting(&names.iter().map(String::as_str).collect::<Vec<_>>())),
    }
}

fn version() -> String {
    format!("hello {}", env!("CARGO_PKG_VERSION"))
}

fn greeting(names: &[&str]) -> String {
    match names {
        [] => "Hello!".to_owned(),
        [name] => format!("Hello, {name}!"),
        [others @ .., last] => format!("Hello, {} and {last}!", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_the_way_people_say_them() {
        assert_eq!(greeting(&["Ada"]), "Hello, Ada!");
        assert_eq!(greeting(&["Ada", "Grace"]), "Hello, Ada and Grace!");
        assert_eq!(greeting(&["Ada", "Grace", "Barbara"]), "Hello, Ada, Grace and Barbara!");
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(answer(&["--loud".to_owned()]).is_err());
    }
}
