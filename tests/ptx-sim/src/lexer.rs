//! Text to tokens.

use crate::error::{Error, Result};

/// A word, a number or a sign, and its line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) line: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenKind {
    /// A name, a directive (`.reg`), a register (`%r1`), an opcode with its modifiers.
    Word(String),
    /// An integer, negative ones by their sign token.
    Int(u64),
    /// `0f3F800000`.
    F32(u32),
    /// `0d3FF0000000000000`.
    F64(u64),
    Text(String),
    Sign(char),
}

/// Splits a file, without comments.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut out = Vec::new();
    while at < bytes.len() {
        let start = at;
        let rest = &bytes[at..];
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            c if c.is_ascii_whitespace() => at += 1,
            b'/' if rest.starts_with(b"//") => {
                at += rest.iter().position(|&c| c == b'\n').unwrap_or(rest.len());
            }
            b'/' if rest.starts_with(b"/*") => {
                let len = text.get(at + 2..).and_then(|tail| tail.find("*/"));
                let end = at + 4 + len.ok_or_else(|| syntax(line, "a comment without end"))?;
                line += bytes[at..end].iter().filter(|&&c| c == b'\n').count() as u32;
                at = end;
            }
            b'"' => {
                let len = rest[1..].iter().position(|&c| c == b'"' || c == b'\n');
                let len = len.filter(|&len| rest[1 + len] == b'"');
                let len = len.ok_or_else(|| syntax(line, "a string without end"))?;
                let text = String::from_utf8_lossy(&rest[1..=len]).into_owned();
                out.push(Token {
                    kind: TokenKind::Text(text),
                    line,
                });
                at += len + 2;
            }
            c if c.is_ascii_digit() => {
                at += rest
                    .iter()
                    .position(|c| !c.is_ascii_alphanumeric())
                    .unwrap_or(rest.len());
                let kind = number(&text[start..at])
                    .ok_or_else(|| syntax(line, &format!("no number: `{}`", &text[start..at])))?;
                out.push(Token { kind, line });
            }
            c if is_word(c) => {
                while at < bytes.len() {
                    if bytes[at..].starts_with(b"::") {
                        at += 2; // `shared::cluster`; one colon ends a label
                    } else if is_word(bytes[at]) {
                        at += 1;
                    } else {
                        break;
                    }
                }
                let kind = TokenKind::Word(text[start..at].to_owned());
                out.push(Token { kind, line });
            }
            c if c.is_ascii() => {
                let kind = TokenKind::Sign(char::from(c));
                out.push(Token { kind, line });
                at += 1;
            }
            _ => return Err(syntax(line, "a character outside ASCII")),
        }
    }
    Ok(out)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn number(text: &str) -> Option<TokenKind> {
    if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        let bits = u32::from_str_radix(hex, 16).ok()?;
        return (hex.len() == 8).then_some(TokenKind::F32(bits));
    }
    if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        let bits = u64::from_str_radix(hex, 16).ok()?;
        return (hex.len() == 16).then_some(TokenKind::F64(bits));
    }
    let text = text.strip_suffix('U').unwrap_or(text);
    let parsed = if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = text.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if text.len() > 1 && text.starts_with('0') {
        u64::from_str_radix(text, 8)
    } else {
        text.parse()
    };
    parsed.ok().map(TokenKind::Int)
}

pub(crate) fn syntax(line: u32, message: &str) -> Error {
    Error::Syntax {
        line,
        message: message.to_owned(),
    }
}
