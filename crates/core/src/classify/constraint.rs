//! The names in a constraint's message, for drivers that have nothing but text.
//!
//! Looks only where a database puts names, and gives nothing where a message has another form (it
//! may be translated), so that no value of a row ever gets into a [`Constraint`].

use super::words::{ConstraintKind, Dialect};

/// A violated constraint, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    /// Which kind it is.
    pub kind: ConstraintKind,
    /// Its name; of an unnamed CHECK in SQLite the expression.
    pub name: Option<String>,
    /// The table that it is on.
    pub table: Option<String>,
    /// The columns that it names.
    pub columns: Vec<String>,
}

impl Constraint {
    /// A constraint of which nothing but the kind is known.
    pub const fn new(kind: ConstraintKind) -> Self {
        Self { kind, name: None, table: None, columns: Vec::new() }
    }

    /// Reads the names from the database's message.
    ///
    /// SQLite tells table and columns of UNIQUE, PRIMARY KEY and NOT NULL and the name of a CHECK;
    /// MySQL and MariaDB the name of a key, CHECK or foreign key. PostgreSQL's messages are not
    /// read, because its drivers have the names in fields. A name that holds the very characters
    /// around names is read at the first place that is possible.
    ///
    /// ```
    /// use turnwise::classify::{Constraint, ConstraintKind, Dialect};
    ///
    /// let message = "UNIQUE constraint failed: user.team, user.name";
    /// let constraint = Constraint::read(Dialect::Sqlite, ConstraintKind::Unique, message);
    /// assert_eq!(constraint.table.as_deref(), Some("user"));
    /// assert_eq!(constraint.columns, ["team", "name"]);
    /// ```
    pub fn read(dialect: Dialect, kind: ConstraintKind, message: &str) -> Self {
        let mut constraint = Self::new(kind);
        let message = message.trim();
        // Nothing found leaves the kind alone.
        let _ = match (dialect, kind) {
            (Dialect::Sqlite, _) => constraint.read_sqlite(message),
            (Dialect::Postgresql, _) | (_, ConstraintKind::Exclusion) => None,
            (_, ConstraintKind::Unique) => constraint.read_key(dialect, message),
            (_, ConstraintKind::ForeignKey) => constraint.read_foreign_key(message),
            (_, ConstraintKind::NotNull) => constraint.read_column(message),
            (_, ConstraintKind::Check) => constraint.read_check(message),
        };
        constraint
    }

    fn read_sqlite(&mut self, message: &str) -> Option<()> {
        let (said, what) = message.split_once(" constraint failed: ")?;
        match (self.kind, said) {
            (ConstraintKind::Check, "CHECK") => self.name = Some(what.to_owned()),
            // An index on an expression is named, not its columns.
            (ConstraintKind::Unique, "UNIQUE") if what.starts_with("index '") => {
                self.name = Some(what.strip_prefix("index '")?.strip_suffix('\'')?.to_owned());
            }
            (ConstraintKind::Unique, "UNIQUE") | (ConstraintKind::NotNull, "NOT NULL") => {
                let (table, columns) = what.split_once('.')?;
                self.table = Some(table.to_owned());
                self.columns =
                    columns.split(&format!(", {table}.")).map(ToOwned::to_owned).collect();
            }
            _ => return None,
        }
        Some(())
    }

    /// `Duplicate entry 'value' for key 'table.key'`, without the table in MariaDB and before MySQL
    /// 8.0.19. The value comes first and may hold anything.
    fn read_key(&mut self, dialect: Dialect, message: &str) -> Option<()> {
        if let Some((_, table)) = message
            .split_once("duplicate key in table '")
            .or_else(|| message.split_once("because of unique constraint, to table '"))
            .filter(|_| !message.contains("Duplicate entry '"))
        {
            self.table = Some(table.strip_suffix('\'')?.to_owned());
            return Some(());
        }
        let (_, after) = message.split_once("Duplicate entry '")?;
        let (_, key) = after.strip_suffix('\'')?.rsplit_once("' for key '")?;
        let (table, name) = match key.split_once('.') {
            Some((table, name)) if dialect == Dialect::Mysql => (Some(table), name),
            _ => (None, key),
        };
        self.table = table.map(ToOwned::to_owned);
        self.name = Some(name.to_owned());
        Some(())
    }

    /// ``(`db`.`child`, CONSTRAINT `name` FOREIGN KEY (`a`, `b`) REFERENCES …``
    fn read_foreign_key(&mut self, message: &str) -> Option<()> {
        let (_, rest) = message.split_once("a foreign key constraint fails (`")?;
        let (table, rest) = rest.split_once("`, CONSTRAINT `")?;
        let (name, rest) = rest.split_once("` FOREIGN KEY (`")?;
        let (columns, _) = rest.split_once("`) REFERENCES `")?;
        self.table = Some(bare(table.split_once("`.`").map_or(table, |(_, table)| table)));
        self.name = Some(bare(name));
        self.columns = columns.split("`, `").map(bare).collect();
        Some(())
    }

    /// `Column 'x' cannot be null`, `Field 'x' doesn't have a default value`
    fn read_column(&mut self, message: &str) -> Option<()> {
        let column = between(message, "Column '", "' cannot be null")
            .or_else(|| between(message, "Field '", "' doesn't have a default value"))?;
        self.columns = vec![column.to_owned()];
        Some(())
    }

    /// `Check constraint 'name' is violated.` of MySQL, ``CONSTRAINT `name` failed for
    /// `db`.`table` `` of MariaDB, where the CHECK of a column has the name `` `table.column` ``.
    fn read_check(&mut self, message: &str) -> Option<()> {
        if let Some(name) = between(message, "Check constraint '", "' is violated") {
            self.name = Some(name.to_owned());
            return Some(());
        }
        let (_, rest) = message.split_once("CONSTRAINT `")?;
        let (name, rest) = rest.split_once("` failed for `")?;
        let (_, table) = rest.strip_suffix('`')?.split_once("`.`")?;
        let (name, table) = (bare(name), bare(table));
        match name.strip_prefix(&table).and_then(|rest| rest.strip_prefix('.')) {
            Some(column) => {
                self.columns = vec![column.to_owned()];
                self.name = Some(column.to_owned());
            }
            None => self.name = Some(name),
        }
        self.table = Some(table);
        Some(())
    }
}

fn between<'a>(message: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(before)?;
    rest.rsplit_once(after).map(|(name, _)| name)
}

/// A name from between backticks. MySQL doubles those of the name, MariaDB 10.11 does not.
fn bare(quoted: &str) -> String {
    quoted.replace("``", "`")
}
