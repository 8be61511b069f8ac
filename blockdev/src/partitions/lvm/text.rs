//! The text that LVM2 keeps its metadata in (`lvm2/lib/config`): sections in braces, keys with numbers, strings and
//! lists. Depth and number of values are bounded; what does not parse is an error, never a guess.

use crate::{Error, Result};

/// Sections within sections: LVM2 needs four.
const DEPTH_MAX: usize = 16;
/// Values of one text: a group of a thousand volumes has tens of thousands.
const VALUES_MAX: usize = 1 << 18;
/// Bytes of a name or a string that are kept: LVM2's names have up to 127. They end up in messages.
const TEXT_KEPT: usize = 256;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number. Fractions, which LVM2's metadata does not use, are cut off.
    Number(i64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
}

/// What is between two braces, in its order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Section {
    values: Vec<(String, Value)>,
    sections: Vec<(String, Section)>,
}

impl Section {
    /// The text `source` as a section.
    ///
    /// # Errors
    ///
    /// `Damaged`, with the line.
    pub fn parse(source: &[u8]) -> Result<Self> {
        let mut parser = Parser { rest: source, line: 1, values: 0 };
        let section = parser.section(0)?;
        if parser.token()? == Token::End { Ok(section) } else { Err(parser.unexpected("a closing brace too many")) }
    }

    /// The section called `name`, taken out of this one.
    pub fn take_section(&mut self, name: &str) -> Option<Self> {
        let at = self.sections.iter().position(|(n, _)| n == name)?;
        Some(self.sections.swap_remove(at).1)
    }

    /// All sections in it, and nothing else of it.
    pub fn into_sections(self) -> impl Iterator<Item = (String, Self)> {
        self.sections.into_iter()
    }

    /// All sections in it.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.sections.iter().map(|(name, section)| (name.as_str(), section))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The number called `name`, when it is there and not negative.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Number(n)) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The string called `name`.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The list called `name`; empty when it is not there.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.value(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// Whether the list called `name` has the string `text`.
    pub fn has(&self, name: &str, text: &str) -> bool {
        self.list(name).iter().any(|v| matches!(v, Value::Text(t) if t == text))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Number(i64),
    Sign(u8),
    End,
}

struct Parser<'a> {
    rest: &'a [u8],
    line: usize,
    values: usize,
}

impl Parser<'_> {
    fn unexpected(&self, what: &str) -> Error {
        Error::damaged(format!("line {} of the LVM2 metadata has {what}", self.line))
    }

    /// Everything up to the brace that closes this section, which is taken, or up to the end of the outermost.
    fn section(&mut self, depth: usize) -> Result<Section> {
        if depth > DEPTH_MAX {
            return Err(self.unexpected("too many sections within sections"));
        }
        let mut section = Section::default();
        loop {
            let name = match self.token()? {
                Token::Word(name) | Token::Text(name) => name,
                Token::End if depth == 0 => return Ok(section),
                Token::Sign(b'}') if depth > 0 => return Ok(section),
                _ => return Err(self.unexpected("something where a name was expected")),
            };
            self.count()?;
            match self.token()? {
                Token::Sign(b'{') => section.sections.push((name, self.section(depth + 1)?)),
                Token::Sign(b'=') => {
                    let value = self.value()?;
                    section.values.push((name, value));
                }
                _ => return Err(self.unexpected("a name without a value")),
            }
        }
    }

    fn value(&mut self) -> Result<Value> {
        match self.token()? {
            Token::Sign(b'[') => {
                let mut list = Vec::new();
                loop {
                    match self.token()? {
                        Token::Sign(b']') => return Ok(Value::List(list)),
                        Token::Sign(b',') => {}
                        token => list.push(self.scalar(token)?),
                    }
                }
            }
            token => self.scalar(token),
        }
    }

    fn scalar(&mut self, token: Token) -> Result<Value> {
        self.count()?;
        match token {
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Text(text) => Ok(Value::Text(text)),
            _ => Err(self.unexpected("something where a value was expected")),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.values += 1;
        if self.values > VALUES_MAX { Err(self.unexpected("too many values before it")) } else { Ok(()) }
    }

    fn take(&mut self, while_: impl Fn(u8) -> bool) -> String {
        let end = self.rest.iter().position(|b| !while_(*b)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        String::from_utf8_lossy(taken.get(..TEXT_KEPT).unwrap_or(taken)).into_owned()
    }

    fn token(&mut self) -> Result<Token> {
        while let Some((first, rest)) = self.rest.split_first() {
            match *first {
                b'\n' => {
                    self.line += 1;
                    self.rest = rest;
                }
                b' ' | b'\t' | b'\r' | 0 => self.rest = rest,
                b'#' => {
                    self.take(|b| b != b'\n');
                }
                b'"' => {
                    self.rest = rest;
                    return self.string();
                }
                sign @ (b'{' | b'}' | b'[' | b']' | b'=' | b',') => {
                    self.rest = rest;
                    return Ok(Token::Sign(sign));
                }
                b'0'..=b'9' | b'-' | b'+' => {
                    let word = self.take(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.' | b'_'));
                    let whole = word.split('.').next().unwrap_or_default();
                    // A name may begin with a digit.
                    return Ok(whole.parse().map_or_else(|_| Token::Word(word.clone()), Token::Number));
                }
                _ => {
                    let word = self.take(|b| !b.is_ascii_whitespace() && !b"{}[]=,#\"\0".contains(&b));
                    return Ok(Token::Word(word));
                }
            }
        }
        Ok(Token::End)
    }

    /// The string whose opening quote is taken.
    fn string(&mut self) -> Result<Token> {
        let mut text = Vec::new();
        loop {
            match self.rest.split_first() {
                None => return Err(self.unexpected("a string without an end")),
                Some((b'"', rest)) => {
                    self.rest = rest;
                    text.truncate(TEXT_KEPT);
                    return Ok(Token::Text(String::from_utf8_lossy(&text).into_owned()));
                }
                Some((b'\\', rest)) if !rest.is_empty() => {
                    text.extend(rest.first());
                    self.rest = rest.get(1..).unwrap_or_default();
                }
                Some((byte, rest)) => {
                    text.push(*byte);
                    self.line += usize::from(*byte == b'\n');
                    self.rest = rest;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_as_lvm_writes_it() {
        let text = b"vg {\nid = \"a-b\" # why\nflags = []\nseqno = 7\nlv{stripes = [\n\"pv0\", 0,\"pv1\" , -2\n]\n}\n}\nx = \"a\\\"b\"\n\0";
        let mut all = Section::parse(text).unwrap();
        let mut vg = all.take_section("vg").unwrap();
        assert_eq!((vg.text("id"), vg.number("seqno"), vg.list("flags")), (Some("a-b"), Some(7), &[][..]));
        let pair = |name: &str, at| [Value::Text(name.into()), Value::Number(at)];
        assert_eq!(vg.take_section("lv").unwrap().list("stripes"), [pair("pv0", 0), pair("pv1", -2)].concat());
        assert_eq!(all.text("x"), Some("a\"b"));
    }

    #[test]
    fn what_is_no_metadata_is_refused() {
        for text in ["a {", "}", "a = ", "a = [1", "a = \"x", "a b", "= 1", "{ }", &"a {".repeat(5000), "a = [[1]]"] {
            assert!(Section::parse(text.as_bytes()).is_err(), "{text:.20}");
        }
    }
}
