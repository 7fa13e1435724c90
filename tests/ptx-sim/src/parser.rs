//! Tokens to entries: parameters, variables, and instructions with their registers resolved.

use std::collections::HashMap;

use crate::error::Result;
use crate::lexer::{Token, TokenKind, syntax, tokens};

/// A file.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) variables: Vec<Variable>,
    pub(crate) entries: Vec<Entry>,
}

/// A named array in some state space.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: VariableSpace,
    pub(crate) align: u64,
    /// 0 for `name[]`: as long as the launch says.
    pub(crate) size: u64,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VariableSpace {
    Shared,
    Global,
    Const,
    Local,
    Param,
}

/// A kernel.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) params: Vec<Variable>,
    pub(crate) locals: Vec<Variable>,
    pub(crate) max_threads: Option<u32>,
    pub(crate) cluster: Option<u32>,
    pub(crate) statements: Vec<Statement>,
    pub(crate) num_rows: u32,
    pub(crate) num_preds: u32,
}

#[derive(Debug)]
pub(crate) enum Statement {
    Label(String),
    /// The labels that `.branchtargets` lists; its own label stands before it.
    Targets(Vec<String>),
    Instruction(Instruction),
}

#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) line: u32,
    /// The predicate, and whether its negation is meant.
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
}

/// A register: a predicate, or a row of numbers of so many bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    Pred(u32),
    Row(u32, u32),
}

#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Register(Register),
    /// `!%p1`.
    Not(u32),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A variable, a label, a special register, or `_`.
    Name(String),
    Memory(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `%p1|%p2`, `%r1|%p1`.
    Pair(Box<Operand>, Box<Operand>),
}

/// Reads a file.
pub(crate) fn parse(text: &str) -> Result<File> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        scopes: Vec::new(),
        num_rows: 0,
        num_preds: 0,
    };
    let mut file = File::default();
    while parser.at < parser.tokens.len() {
        parser.top_level(&mut file)?;
    }
    Ok(file)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    scopes: Vec<HashMap<String, Register>>,
    num_rows: u32,
    num_preds: u32,
}

impl Parser {
    fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(1, |t| t.line)
    }

    fn next(&mut self) -> Result<TokenKind> {
        let token = self.tokens.get(self.at);
        let kind = token.map(|token| token.kind.clone());
        let kind = kind.ok_or_else(|| syntax(self.line(), "the file ends too early"))?;
        self.at += 1;
        Ok(kind)
    }

    fn sees(&self, sign: char) -> bool {
        self.tokens.get(self.at).map(|t| &t.kind) == Some(&TokenKind::Sign(sign))
    }

    fn takes(&mut self, sign: char) -> bool {
        let sees = self.sees(sign);
        self.at += usize::from(sees);
        sees
    }

    fn expect(&mut self, sign: char) -> Result<()> {
        let line = self.line();
        match self.next()? {
            TokenKind::Sign(found) if found == sign => Ok(()),
            found => Err(syntax(line, &format!("expected `{sign}`, found {found:?}"))),
        }
    }

    fn word(&mut self) -> Result<String> {
        let line = self.line();
        match self.next()? {
            TokenKind::Word(word) => Ok(word),
            found => Err(syntax(line, &format!("expected a name, found {found:?}"))),
        }
    }

    fn peek_word(&self) -> Option<&str> {
        match &self.tokens.get(self.at)?.kind {
            TokenKind::Word(word) => Some(word),
            _ => None,
        }
    }

    fn int(&mut self) -> Result<u64> {
        let line = self.line();
        let negative = self.takes('-');
        match self.next()? {
            TokenKind::Int(value) if negative => Ok(value.wrapping_neg()),
            TokenKind::Int(value) => Ok(value),
            found => Err(syntax(
                line,
                &format!("expected an integer, found {found:?}"),
            )),
        }
    }

    /// The one, two or three numbers of `.maxntid` and its like, multiplied.
    fn product(&mut self) -> Result<u32> {
        let mut product = self.int()?;
        while self.takes(',') {
            product *= self.int()?;
        }
        Ok(product as u32)
    }

    fn skip_line(&mut self, line: u32) {
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn top_level(&mut self, file: &mut File) -> Result<()> {
        let line = self.line();
        let word = self.word()?;
        match word.as_str() {
            ".version" | ".target" | ".address_size" | ".file" => self.skip_line(line),
            ".visible" | ".extern" | ".weak" => {}
            ".entry" => {
                let entry = self.entry()?;
                file.entries.push(entry);
            }
            ".shared" => file.variables.push(self.variable(VariableSpace::Shared)?),
            ".global" => file.variables.push(self.variable(VariableSpace::Global)?),
            ".const" => file.variables.push(self.variable(VariableSpace::Const)?),
            _ => return Err(syntax(line, &format!("unknown directive `{word}`"))),
        }
        Ok(())
    }

    /// The rest of `.shared .align 16 .b8 name[8] = {..};`.
    fn variable(&mut self, space: VariableSpace) -> Result<Variable> {
        let mut variable = self.declarator(space)?;
        if self.takes('=') {
            let width = variable.align.min(variable.size).max(1) as usize;
            let braces = self.takes('{');
            // The element's width was put into `data` by `declarator`.
            let width = variable.data.pop().map_or(width, usize::from);
            loop {
                let value = self.int()?;
                variable.data.extend(&value.to_le_bytes()[..width]);
                if !self.takes(',') {
                    break;
                }
            }
            if braces {
                self.expect('}')?;
            }
            variable.data.resize(variable.size as usize, 0);
        } else {
            variable.data.clear();
        }
        self.expect(';')?;
        Ok(variable)
    }

    /// `.align 4 .b8 name[56]`, `.u32 name`, `.u64 .ptr .align 1 name`. Leaves the element's width
    /// as the one byte of `data`.
    fn declarator(&mut self, space: VariableSpace) -> Result<Variable> {
        let (mut align, mut width) = (None, None);
        loop {
            let line = self.line();
            let word = self.word()?;
            match word.as_str() {
                // The alignment behind `.ptr` is that of what it points to.
                ".ptr" => {
                    while self.peek_word().is_some_and(|word| word.starts_with('.')) {
                        if self.word()? == ".align" {
                            self.int()?;
                        }
                    }
                }
                ".align" => align = Some(self.int()?),
                word if word.starts_with('.') => {
                    let bits: Option<u64> = word[2..].parse().ok();
                    let bits = bits.filter(|bits| matches!(bits, 8 | 16 | 32 | 64));
                    let bits =
                        bits.ok_or_else(|| syntax(line, &format!("unknown type `{word}`")))?;
                    width = Some(bits / 8);
                }
                name => {
                    let width = width.ok_or_else(|| syntax(line, "a variable without type"))?;
                    let mut size = width;
                    if self.takes('[') {
                        size = if self.sees(']') {
                            0
                        } else {
                            self.int()? * width
                        };
                        self.expect(']')?;
                    }
                    return Ok(Variable {
                        name: name.to_owned(),
                        space,
                        align: align.unwrap_or(width),
                        size,
                        data: vec![width as u8],
                    });
                }
            }
        }
    }

    fn entry(&mut self) -> Result<Entry> {
        (self.num_rows, self.num_preds) = (0, 0);
        let mut entry = Entry {
            name: self.word()?,
            params: Vec::new(),
            locals: Vec::new(),
            max_threads: None,
            cluster: None,
            statements: Vec::new(),
            num_rows: 0,
            num_preds: 0,
        };
        if self.takes('(') {
            while !self.takes(')') {
                let line = self.line();
                if self.word()? != ".param" {
                    return Err(syntax(line, "expected `.param`"));
                }
                entry.params.push(self.declarator(VariableSpace::Param)?);
                self.takes(',');
            }
        }
        while !self.takes('{') {
            let line = self.line();
            let word = self.word()?;
            match word.as_str() {
                ".maxntid" | ".reqntid" => entry.max_threads = Some(self.product()?),
                ".reqnctapercluster" => entry.cluster = Some(self.product()?),
                ".minnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                    self.product()?;
                }
                ".explicitcluster" => {}
                _ => return Err(syntax(line, &format!("unknown directive `{word}`"))),
            }
        }
        self.scopes.push(HashMap::new());
        while !self.scopes.is_empty() {
            self.statement(&mut entry)?;
        }
        (entry.num_rows, entry.num_preds) = (self.num_rows, self.num_preds);
        Ok(entry)
    }

    fn statement(&mut self, entry: &mut Entry) -> Result<()> {
        let line = self.line();
        if self.takes('{') {
            self.scopes.push(HashMap::new());
            return Ok(());
        }
        if self.takes('}') {
            self.scopes.pop();
            return Ok(());
        }
        if self.takes(';') {
            return Ok(());
        }
        let guard = if self.takes('@') {
            let negated = self.takes('!');
            let name = self.word()?;
            match self.lookup(&name) {
                Some(Register::Pred(index)) => Some((index, negated)),
                _ => return Err(syntax(line, &format!("`{name}` is no predicate"))),
            }
        } else {
            None
        };
        let opcode = self.word()?;
        match opcode.as_str() {
            ".reg" => return self.registers(),
            ".local" => {
                entry.locals.push(self.variable(VariableSpace::Local)?);
                return Ok(());
            }
            ".shared" => {
                entry.locals.push(self.variable(VariableSpace::Shared)?);
                return Ok(());
            }
            ".pragma" => {
                self.next()?;
                return self.expect(';');
            }
            ".loc" => {
                self.skip_line(line);
                return Ok(());
            }
            ".branchtargets" => {
                let mut targets = vec![self.word()?];
                while self.takes(',') {
                    targets.push(self.word()?);
                }
                entry.statements.push(Statement::Targets(targets));
                return self.expect(';');
            }
            _ if guard.is_none() && self.takes(':') => {
                entry.statements.push(Statement::Label(opcode));
                return Ok(());
            }
            _ if opcode.starts_with('.') => {
                return Err(syntax(line, &format!("unknown directive `{opcode}`")));
            }
            _ => {}
        }
        let mut operands = Vec::new();
        while !self.takes(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand()?);
        }
        entry.statements.push(Statement::Instruction(Instruction {
            line,
            guard,
            opcode,
            operands,
        }));
        Ok(())
    }

    /// The rest of `.reg .b32 %r<9>;` or `.reg .pred p, q;`.
    fn registers(&mut self) -> Result<()> {
        let line = self.line();
        let ty = self.word()?;
        let bits = match ty.as_str() {
            ".pred" => 0,
            ty => ty
                .get(2..)
                .and_then(|bits| bits.parse().ok())
                .filter(|bits| matches!(bits, 8 | 16 | 32 | 64))
                .ok_or_else(|| syntax(line, &format!("unknown register type `{ty}`")))?,
        };
        loop {
            let name = self.word()?;
            if self.takes('<') {
                for i in 0..self.int()? {
                    self.register(format!("{name}{i}"), bits);
                }
                self.expect('>')?;
            } else {
                self.register(name, bits);
            }
            if !self.takes(',') {
                return self.expect(';');
            }
        }
    }

    fn register(&mut self, name: String, bits: u32) {
        let register = if bits == 0 {
            self.num_preds += 1;
            Register::Pred(self.num_preds - 1)
        } else {
            self.num_rows += 1;
            Register::Row(self.num_rows - 1, bits)
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, register);
        }
    }

    fn lookup(&self, name: &str) -> Option<Register> {
        let mut scopes = self.scopes.iter().rev();
        scopes.find_map(|scope| scope.get(name).copied())
    }

    fn operand(&mut self) -> Result<Operand> {
        let line = self.line();
        if self.takes('[') {
            let base = self.operand()?;
            let mut offset = 0i64;
            if self.takes('+') || self.sees('-') {
                offset = self.int()? as i64;
            }
            self.expect(']')?;
            return Ok(Operand::Memory(Box::new(base), offset));
        }
        if self.takes('{') {
            let mut elements = vec![self.operand()?];
            while self.takes(',') {
                elements.push(self.operand()?);
            }
            self.expect('}')?;
            return Ok(Operand::Vector(elements));
        }
        if self.takes('!') {
            let name = self.word()?;
            return match self.lookup(&name) {
                Some(Register::Pred(index)) => Ok(Operand::Not(index)),
                _ => Err(syntax(line, &format!("`{name}` is no predicate"))),
            };
        }
        if self.sees('-') {
            return self.int().map(Operand::Int);
        }
        let operand = match self.next()? {
            TokenKind::Int(value) => Operand::Int(value),
            TokenKind::F32(bits) => Operand::F32(bits),
            TokenKind::F64(bits) => Operand::F64(bits),
            TokenKind::Word(name) => match self.lookup(&name) {
                Some(register) => Operand::Register(register),
                None => Operand::Name(name),
            },
            found => {
                return Err(syntax(
                    line,
                    &format!("expected an operand, found {found:?}"),
                ));
            }
        };
        if self.takes('|') {
            let second = self.operand()?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }
}
