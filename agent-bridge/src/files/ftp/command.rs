//! FTP commands, as text. Pure.

/// What a client asks for.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Command {
    User(String),
    Pass(String),
    Type(TransferType),
    /// `MODE S`, `STRU F`: the only ones there are.
    Mode {
        known: bool,
    },
    Structure {
        known: bool,
    },
    Passive,
    ExtendedPassive(ExtendedPassive),
    ChangeDirectory(String),
    ToParent,
    PrintDirectory,
    Size(String),
    ModificationTime(String),
    Restart(u64),
    Retrieve(String),
    Store(String),
    List,
    NameList,
    Abort,
    Noop,
    System,
    Features,
    Options(String),
    Allocate,
    Help,
    Quit,
    /// `AUTH`.
    Authentication(Mechanism),
    /// `PBSZ`: nothing is buffered.
    ProtectionBufferSize,
    /// `PROT`.
    Protection(Protection),
    /// `PORT` and `EPRT`.
    ActiveMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferType {
    /// `I`, `L 8`; and `A`, which changes nothing: files are bytes whose CRC must hold.
    Bytes,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtendedPassive {
    /// Of the control connection's family.
    Same,
    /// By the number that RFC 2428 gives it: 1 is IPv4, 2 is IPv6.
    Family(u32),
    All,
}

/// By what a client wants the connection secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Tls,
    Unknown,
}

/// What a client wants of data connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// In the clear.
    Clear,
    /// Within TLS.
    Private,
    Unknown,
}

/// Why a line is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandError {
    /// The client may ask for it; there is none.
    NotImplemented,
    /// An argument is missing or is not of its form.
    Argument,
}

impl Command {
    /// Of a line without its end.
    pub(super) fn parse(line: &str) -> Result<Self, CommandError> {
        let (verb, argument) = match line.split_once(' ') {
            Some((verb, argument)) => (verb, argument),
            None => (line.trim_end(), ""),
        };
        let text = || match argument {
            "" => Err(CommandError::Argument),
            argument => Ok(argument.to_owned()),
        };
        let is = |value: &str| argument.trim().eq_ignore_ascii_case(value);
        Ok(match verb.to_ascii_uppercase().as_str() {
            "USER" => Self::User(text()?),
            // A password may be empty.
            "PASS" => Self::Pass(argument.to_owned()),
            "TYPE" => Self::Type(match argument.trim().to_ascii_uppercase().as_str() {
                "A" | "A N" | "I" | "L 8" => TransferType::Bytes,
                "" => return Err(CommandError::Argument),
                _ => TransferType::Unknown,
            }),
            "MODE" => Self::Mode { known: is("S") },
            "STRU" => Self::Structure { known: is("F") },
            "PASV" => Self::Passive,
            "EPSV" => Self::ExtendedPassive(match argument.trim() {
                "" => ExtendedPassive::Same,
                _ if is("ALL") => ExtendedPassive::All,
                family => ExtendedPassive::Family(family.parse().map_err(|_| CommandError::Argument)?),
            }),
            "CWD" | "XCWD" => Self::ChangeDirectory(text()?),
            "CDUP" | "XCUP" => Self::ToParent,
            "PWD" | "XPWD" => Self::PrintDirectory,
            "SIZE" => Self::Size(text()?),
            "MDTM" => Self::ModificationTime(text()?),
            "REST" => Self::Restart(argument.trim().parse().map_err(|_| CommandError::Argument)?),
            "RETR" => Self::Retrieve(text()?),
            "STOR" => Self::Store(text()?),
            "LIST" => Self::List,
            "NLST" => Self::NameList,
            "ABOR" => Self::Abort,
            "NOOP" => Self::Noop,
            "SYST" => Self::System,
            "FEAT" => Self::Features,
            "OPTS" => Self::Options(text()?),
            "ALLO" => Self::Allocate,
            "HELP" => Self::Help,
            "QUIT" => Self::Quit,
            "AUTH" => Self::Authentication(match argument.trim().to_ascii_uppercase().as_str() {
                "TLS" | "TLS-C" | "SSL" => Mechanism::Tls,
                "" => return Err(CommandError::Argument),
                _ => Mechanism::Unknown,
            }),
            "PBSZ" => Self::ProtectionBufferSize,
            "PROT" => Self::Protection(match argument.trim().to_ascii_uppercase().as_str() {
                "C" => Protection::Clear,
                "P" => Protection::Private,
                "" => return Err(CommandError::Argument),
                _ => Protection::Unknown,
            }),
            "PORT" | "EPRT" => Self::ActiveMode,
            _ => return Err(CommandError::NotImplemented),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line)
    }

    #[test]
    fn verbs_are_known_in_any_case_and_arguments_keep_theirs() {
        assert!(parse("retr a/B") == Ok(Command::Retrieve("a/B".into())));
        assert!(parse("Quit") == Ok(Command::Quit));
        assert!(parse("QUIT ") == Ok(Command::Quit));
        assert!(parse("PASS") == Ok(Command::Pass(String::new())));
        assert!(parse("RETR  a") == Ok(Command::Retrieve(" a".into())));
        assert!(parse("EPSV all") == Ok(Command::ExtendedPassive(ExtendedPassive::All)));
        assert!(parse("EPSV 2") == Ok(Command::ExtendedPassive(ExtendedPassive::Family(2))));
        assert!(parse("type a") == Ok(Command::Type(TransferType::Bytes)));
        assert!(parse("auth tls") == Ok(Command::Authentication(Mechanism::Tls)));
        assert!(parse("AUTH GSSAPI") == Ok(Command::Authentication(Mechanism::Unknown)));
        assert!(parse("PROT p") == Ok(Command::Protection(Protection::Private)));
        assert!(parse("TYPE E") == Ok(Command::Type(TransferType::Unknown)));
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_is_asked_for_wrongly() {
        for line in ["DELE x", "SITE CHMOD 777 x", "STOU", "APPE x", "MLSD", "", "RETRx", "\u{0}"] {
            assert!(parse(line) == Err(CommandError::NotImplemented), "{line}");
        }
        for line in ["RETR", "USER", "REST", "REST x", "REST -1", "REST 99999999999999999999", "EPSV x", "TYPE"] {
            assert!(parse(line) == Err(CommandError::Argument), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_more_than_refused(line in ".{0,512}") {
            let _ = parse(&line);
        }
    }
}
