//! Reads the tables of the file key by key and notes everything that is wrong on the way: no
//! error hides another one.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Finding, Span};
use super::value::kind;

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Finding>>);

impl Problems {
    pub(super) fn add(&self, finding: Finding) {
        self.0.borrow_mut().push(finding);
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.0.into_inner()
    }
}

/// Why a value cannot be used, and what would do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn at(self, span: Span) -> Finding {
        let finding = Finding::error(span, self.message);
        match self.help {
            Some(help) => finding.help(help),
            None => finding,
        }
    }
}

/// The good elements of an array.
#[derive(Debug)]
pub(super) struct List<T> {
    pub(super) items: Vec<Spanned<T>>,
    /// Where the array is; `None`: there is none.
    pub(super) span: Option<Span>,
    /// No element had to be left out.
    pub(super) complete: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), span: None, complete: true }
    }
}

/// An entry of a table whose keys are the operator's.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_span: Span,
    pub(super) value: &'a DeValue<'a>,
    pub(super) value_span: Span,
}

/// A table of the file whose keys are known.
pub(super) struct Section<'a> {
    /// As messages name it: `[director]`.
    title: String,
    table: &'a DeTable<'a>,
    span: Option<Span>,
    asked: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a DeTable<'a>, problems: &'a Problems) -> Self {
        Self { title: "the file".into(), table, span: None, asked: Vec::new(), problems }
    }

    /// A table within an array or map; `None` (and a finding): it is something else.
    pub(super) fn of(
        title: String,
        value: &'a DeValue<'a>,
        span: Span,
        problems: &'a Problems,
    ) -> Option<Self> {
        if let Some(table) = value.as_table() {
            return Some(Self { title, table, span: Some(span), asked: Vec::new(), problems });
        }
        let message = format!("{title} must be a table, found {}", kind(value));
        problems.add(Finding::error(span, message));
        None
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone().unwrap_or(0..0)
    }

    pub(super) fn problems(&self) -> &'a Problems {
        self.problems
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    pub(super) fn is_string(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    pub(super) fn is_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_table())
    }

    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// The value of `key`; `None`: there is none, or it is wrong, which has been noted.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        let value = self.find(key)?;
        match read(value.get_ref()) {
            Ok(good) => Some(Spanned::new(value.span(), good)),
            Err(wrong) => {
                let wrong = Wrong { message: format!("{key}: {}", wrong.message), ..wrong };
                self.problems.add(wrong.at(value.span()));
                None
            }
        }
    }

    /// As [`Self::value`]; that the key is absent is noted too.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        self.require(key, example);
        self.value(key, read)
    }

    pub(super) fn require(&self, key: &str, example: &str) {
        if !self.table.contains_key(key) {
            let message = format!("{} has no `{key}`", self.title);
            let finding = Finding::absence(self.span.clone(), message);
            self.problems.add(finding.help(format!("add for example: {key} = {example}")));
        }
    }

    /// The array `key`.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> List<T> {
        let mut list = List::default();
        let Some(value) = self.find(key) else { return list };
        list.span = Some(value.span());
        let Some(array) = value.get_ref().as_array() else {
            let found = kind(value.get_ref());
            let message = format!("{key}: expected an array, found {found}");
            let help = format!("write for example: {key} = {example}");
            self.problems.add(Finding::error(value.span(), message).help(help));
            list.complete = false;
            return list;
        };
        for element in array {
            match read(element.get_ref()) {
                Ok(good) => list.items.push(Spanned::new(element.span(), good)),
                Err(wrong) => {
                    list.complete = false;
                    let wrong = Wrong { message: format!("{key}: {}", wrong.message), ..wrong };
                    self.problems.add(wrong.at(element.span()));
                }
            }
        }
        list
    }

    /// The tables of the array `key`; an element's title is `title`. `None` beside them: an
    /// element, or the array, is not one.
    pub(super) fn tables(&mut self, key: &'static str, title: &str) -> List<Section<'a>> {
        let mut list = List::default();
        let Some(value) = self.find(key) else { return list };
        list.span = Some(value.span());
        let Some(array) = value.get_ref().as_array() else {
            let message =
                format!("{key}: expected an array of tables, found {}", kind(value.get_ref()));
            self.problems.add(
                Finding::error(value.span(), message).help(format!("begin each with {title}")),
            );
            list.complete = false;
            return list;
        };
        for element in array {
            match Self::of(title.into(), element.get_ref(), element.span(), self.problems) {
                Some(section) => list.items.push(Spanned::new(element.span(), section)),
                None => list.complete = false,
            }
        }
        list
    }

    /// The table `key`.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let value = self.find(key)?;
        Self::of(format!("[{key}]"), value.get_ref(), value.span(), self.problems)
    }

    /// The entries of the table `key`, in the order of the file.
    pub(super) fn entries(&mut self, key: &'static str) -> Vec<Entry<'a>> {
        let Some(section) = self.section(key) else { return Vec::new() };
        let mut entries: Vec<_> = section
            .table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref(),
                key_span: key.span(),
                value: value.get_ref(),
                value_span: value.span(),
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        entries
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys().filter(|key| !self.asked.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let message = format!("unknown key `{}` in {}", name.escape_debug(), self.title);
            self.problems.add(Finding::error(key.span(), message).help(nearest(
                name,
                &self.asked,
                "keys",
            )));
        }
    }
}

/// "did you mean", or else what there is.
pub(super) fn nearest(wrong: &str, known: &[&str], what: &str) -> String {
    match likeliest(wrong, known) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known {what}: {}", known.join(", ")),
    }
}

/// The known word that was probably meant.
pub(super) fn likeliest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let best = known
        .iter()
        .map(|word| (strsim::jaro_winkler(&wrong, word), word))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(likeness, _)| *likeness > 0.8).map(|(_, word)| *word)
}
