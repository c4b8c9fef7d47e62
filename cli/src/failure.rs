//! How a command ends badly: what failed and why, what to do, and the exit code. The text is for the
//! operator's eyes only; to the control plane goes at most the class.

use walwarden_client::ClientError;
use walwarden_contract::{exit::ExitCode, failure::FailureClass};

/// A command's failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Stable word for programs.
    pub code: String,
    /// What failed and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Exit code.
    pub exit: ExitCode,
    /// Class to report, for a restore that was claimed.
    pub class: Option<FailureClass>,
    /// Message and hint for people who have just read the details in lines of their own.
    pub told: Option<Box<(String, String)>>,
}

impl Failure {
    /// The user's to fix.
    pub fn user(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: None,
            exit: ExitCode::UserError,
            class: None,
            told: None,
        }
    }

    /// Of a class, with the class' remedy as hint.
    pub fn class(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            code: class.as_str().into(),
            message: message.into(),
            hint: Some(class.remedy().into()),
            exit: if class.is_retryable() { ExitCode::Retryable } else { ExitCode::Terminal },
            class: Some(class),
            told: None,
        }
    }

    /// A fault of this program or machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::class(FailureClass::Internal, message)
    }

    /// With other advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With shorter words for who has read the details already.
    pub fn told(mut self, message: impl Into<String>, hint: impl Into<String>) -> Self {
        self.told = Some(Box::new((message.into(), hint.into())));
        self
    }

    /// A file that could not be read or written.
    pub fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded].contains(&error.kind());
        let message = format!("could not {what} {}: {error}", path.display());
        if full {
            Self::class(FailureClass::DiskFull, message)
                .hint("free disk space, or name another directory with --work-dir")
        } else {
            Self { code: "file_error".into(), ..Self::internal(message) }
                .hint("check the directory and its permissions; --work-dir names another")
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Api(detail) => detail.code.as_str(),
            ClientError::Network { .. } => "network",
            ClientError::Unexpected { .. } => "unexpected_answer",
        };
        Self {
            code: code.into(),
            message: error.to_string(),
            hint: error.hint(),
            exit: error.exit_code(),
            class: None,
            told: None,
        }
    }
}
