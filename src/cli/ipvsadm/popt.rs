//! Takes a command line apart into options, by popt's rules: `-n`, `-ln`, `-w3`, `-w=3`, `-w 3`,
//! `--weight=3`, `--weight 3`, options and other words in any order, `--` before other words.

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    No,
    Must,
    /// It has one if the next word is there and does not begin with `-`.
    May,
}

/// An option that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<T> {
    pub(super) token: T,
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) value: Value,
}

/// An option that is wrong, in popt's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word}: {why}")]
pub(super) struct BadOption {
    word: String,
    why: &'static str,
}

/// An option as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given<'a, T> {
    pub(super) token: T,
    pub(super) value: Option<&'a str>,
    /// The whole word that it stands in.
    pub(super) word: &'a str,
}

/// What is left of a command line.
#[derive(Debug)]
pub(super) struct Words<'a, T: 'static> {
    known: &'static [Known<T>],
    left: std::slice::Iter<'a, String>,
    /// A word of short options, and what is left of it.
    short: Option<(&'a str, &'a str)>,
    /// Words that are no options, so far.
    pub(super) others: Vec<&'a str>,
}

impl<'a, T: Copy> Words<'a, T> {
    pub(super) fn new(known: &'static [Known<T>], words: &'a [String]) -> Self {
        Self { known, left: words.iter(), short: None, others: Vec::new() }
    }

    /// The next option; `None`: there are no more.
    pub(super) fn next(&mut self) -> Result<Option<Given<'a, T>>, BadOption> {
        loop {
            if let Some((word, rest)) = self.short.take()
                && let Some(letter) = rest.chars().next()
            {
                return self.short(word, letter, &rest[letter.len_utf8()..]).map(Some);
            }
            let Some(word) = self.left.next().map(String::as_str) else { return Ok(None) };
            if word == "--" {
                self.others.extend(self.left.by_ref().map(String::as_str));
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(word, long).map(Some);
            } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
                self.short = Some((word, letters));
            } else {
                self.others.push(word);
            }
        }
    }

    fn long(&mut self, word: &'a str, text: &'a str) -> Result<Given<'a, T>, BadOption> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let Some(known) = self.known.iter().find(|known| known.long == name) else {
            return Err(bad(word, "unknown option"));
        };
        self.given(known, word, value)
    }

    fn short(
        &mut self,
        word: &'a str,
        letter: char,
        rest: &'a str,
    ) -> Result<Given<'a, T>, BadOption> {
        let Some(known) = self.known.iter().find(|known| known.short == Some(letter)) else {
            return Err(bad(word, "unknown option"));
        };
        if known.value == Value::No && !rest.starts_with('=') {
            self.short = Some((word, rest));
            return Ok(Given { token: known.token, value: None, word });
        }
        let value = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest));
        self.given(known, word, value)
    }

    /// The option, with `value` or with the next word as its value.
    fn given(
        &mut self,
        known: &Known<T>,
        word: &'a str,
        value: Option<&'a str>,
    ) -> Result<Given<'a, T>, BadOption> {
        let value = match (known.value, value) {
            (Value::No, Some(_)) => return Err(bad(word, "option does not take an argument")),
            (Value::No, None) => None,
            (Value::Must | Value::May, Some(value)) => Some(value),
            (Value::Must, None) => {
                let next = self.left.next().map(String::as_str);
                Some(next.ok_or_else(|| bad(word, "missing argument"))?)
            }
            (Value::May, None) => {
                let next = self.left.as_slice().first();
                let has_value = next.is_some_and(|next| !next.starts_with('-'));
                if has_value { self.left.next().map(String::as_str) } else { None }
            }
        };
        Ok(Given { token: known.token, value, word })
    }
}

fn bad(word: &str, why: &'static str) -> BadOption {
    BadOption { word: word.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Known<char>] = &[
        Known { token: 'l', long: "list", short: Some('l'), value: Value::No },
        Known { token: 'n', long: "numeric", short: Some('n'), value: Value::No },
        Known { token: 'w', long: "weight", short: Some('w'), value: Value::Must },
        Known { token: 'p', long: "persistent", short: Some('p'), value: Value::May },
    ];

    /// The options and other words, or what is wrong.
    fn taken(line: &[&str]) -> Result<String, String> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let mut left = Words::new(KNOWN, &words);
        let mut text = String::new();
        while let Some(given) = left.next().map_err(|error| error.to_string())? {
            text.push(given.token);
            text.extend(given.value.map(|value| format!("({value})")));
        }
        left.others.iter().for_each(|other| text.extend([" ", other]));
        Ok(text)
    }

    #[test]
    fn options_are_joined_or_apart() {
        for line in [&["-ln"][..], &["-l", "-n"], &["--list", "--numeric"], &["-l", "--numeric"]] {
            assert_eq!(taken(line).as_deref(), Ok("ln"), "{line:?}");
        }
    }

    #[test]
    fn values_are_attached_or_the_next_word() {
        for line in [&["-w3"][..], &["-w=3"], &["-w", "3"], &["--weight=3"], &["--weight", "3"]] {
            assert_eq!(taken(line).as_deref(), Ok("w(3)"), "{line:?}");
        }
        assert_eq!(taken(&["-nw", "-1"]).as_deref(), Ok("nw(-1)"));
        assert_eq!(taken(&["-w", ""]).as_deref(), Ok("w()"));
    }

    #[test]
    fn a_value_that_may_be_there_is_no_option() {
        for (line, expected) in [
            (&["-p"][..], "p"),
            (&["-p", "-n"], "pn"),
            (&["-p", "60", "-n"], "p(60)n"),
            (&["-p60"], "p(60)"),
            (&["--persistent=60"], "p(60)"),
            (&["-p="], "p()"),
            (&["-p", "--", "60"], "p 60"),
        ] {
            assert_eq!(taken(line).as_deref(), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn other_words_are_kept_in_their_order() {
        assert_eq!(taken(&["a", "-l", "b", "--", "-n"]).as_deref(), Ok("l a b -n"));
        assert_eq!(taken(&["-l", "-"]).as_deref(), Ok("l -"));
    }

    #[test]
    fn wrong_options_are_told_with_the_whole_word() {
        for (line, expected) in [
            (&["-lnq"][..], "-lnq: unknown option"),
            (&["--bogus=3"], "--bogus=3: unknown option"),
            (&["--list=3"], "--list=3: option does not take an argument"),
            (&["-ln="], "-ln=: option does not take an argument"),
            (&["-lw"], "-lw: missing argument"),
            (&["--weight"], "--weight: missing argument"),
        ] {
            assert_eq!(taken(line), Err(expected.to_owned()), "{line:?}");
        }
    }
}
