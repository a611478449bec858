//! The dialects of SQL, as far as the lexer must know them.
//!
//! Any thread, pure.

/// A dialect of SQL. The URL of the database decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The rules that PostgreSQL and SQLite share.
    #[default]
    Standard,
    /// The rules of MySQL and MariaDB: strings with backslashes in either quote, names in backticks, `#` before a comment, and
    /// comments that do not nest. The inside of `/*! … */` is SQL.
    Mysql,
}

impl Dialect {
    /// The dialect of the database with this URL.
    pub fn of_url(url: Option<&str>) -> Self {
        let is_mysql =
            url.is_some_and(|url| ["mysql:", "mariadb:"].iter().any(|scheme| url.starts_with(scheme)));
        if is_mysql { Self::Mysql } else { Self::Standard }
    }

    /// Whether a statement that begins with this word, in lower case, commits the transaction in which it stands.
    pub(super) fn commits(self, word: &str) -> bool {
        /// See "Statements That Cause an Implicit Commit" in MySQL's manual.
        const COMMITS: [&str; 16] = [
            "alter",
            "analyze",
            "cache",
            "check",
            "create",
            "drop",
            "flush",
            "grant",
            "install",
            "optimize",
            "rename",
            "repair",
            "reset",
            "revoke",
            "truncate",
            "uninstall",
        ];
        self == Self::Mysql && COMMITS.contains(&word)
    }

    /// The commands of this dialect alone that change the session, and what to write instead.
    pub(super) fn session_commands(self) -> &'static [(&'static [&'static str], &'static str)] {
        match self {
            Self::Standard => &[],
            Self::Mysql => &[
                (&["set"], "set it for every session with database.connection_init_sql"),
                (&["use"], "write the database before the table's name, `database.table`"),
                (&["lock", "unlock"], "use `select … for update`, whose lock ends with the transaction"),
                (&["handler"], "write the statement as a select"),
                (&["xa"], "the steps of an endpoint already run in one transaction"),
            ],
        }
    }

    /// Further first words of statements that do more than read.
    pub(super) fn writes(self) -> &'static [&'static str] {
        match self {
            Self::Standard => &[],
            Self::Mysql => {
                &["flush", "install", "kill", "optimize", "rename", "repair", "shutdown", "uninstall"]
            }
        }
    }
}
