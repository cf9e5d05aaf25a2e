//! What a template may say: the part of Jinja in which no value can grow, and nothing runs but loops over bounded lists.
//!
//! A few lines of full Jinja (`{% set a = a ~ a %}`, again and again) are gigabytes. Here a text is put together where it is
//! written out, and nowhere else: there are no macros, no captured blocks, no recursion, and no lists of lists.
//!
//! What holds for every device is found here, before there is a device: unknown names, filters and tests.

use std::collections::BTreeSet;

use minijinja::machinery::{Span, Token, ast, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;

use super::error::{Fault, TemplateError};
use super::words;

/// Of one expression or statement: the engine goes down each operator's left side once more, on its stack.
const TOKENS_MAX: usize = 256;
/// Of blocks in blocks, as a chain of `elif` is one, too.
const DEPTH_MAX: usize = 48;
/// Operands of `~` in one expression: each has up to 16 KiB.
const CONCATENATED_MAX: usize = 64;

/// Checks the source of a template.
pub(super) fn check(source: &str, syntax: &SyntaxConfig) -> Result<(), TemplateError> {
    check_tokens(source, syntax)?;
    let template = parse(source, super::NAME, syntax.clone()).map_err(|error| TemplateError::from_engine(&error))?;
    let mut bound = BTreeSet::from(["device", "loop"]);
    collect_names(std::slice::from_ref(&template), &mut bound);
    Language { bound }.statements(std::slice::from_ref(&template))
}

/// The source, so marked that a line of statements alone leaves nothing behind, and every other line ends where it ends. The
/// engine knows no more than to drop the line ends after all statements (`trim_blocks`), which would join the lines of a
/// configuration; a plus sign keeps one.
pub(super) fn with_line_ends(source: &str) -> Result<String, TemplateError> {
    let mut marked = String::with_capacity(source.len());
    let (mut taken, mut ended, mut holds_text) = (0, 0, false);
    // Takes the source up to the `%}` or `#}` that ends there.
    let mut keep_line_end = |taken: &mut usize, end: usize| {
        let end = end.saturating_sub(2);
        let before = source.get(*taken..end).unwrap_or_default();
        marked.push_str(before);
        if !before.ends_with(['-', '+']) {
            marked.push('+');
        }
        *taken = end;
    };
    let as_it_is = SyntaxConfig::builder().keep_trailing_newline(true).build();
    let as_it_is = as_it_is.map_err(|error| TemplateError::from_engine(&error))?;
    for token in tokenize(source, false, as_it_is) {
        let (token, span) = token.map_err(|error| TemplateError::from_engine(&error))?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        match token {
            Token::TemplateData(text) => {
                // Between two texts is what is no token: a comment, the beginning or the end of what is raw.
                if holds_text && source.get(ended..start).is_some_and(|gap| gap.ends_with('}')) {
                    keep_line_end(&mut taken, start);
                }
                match text.rsplit_once('\n') {
                    Some((_, rest)) => holds_text = !rest.trim().is_empty(),
                    None => holds_text |= !text.trim().is_empty(),
                }
            }
            Token::VariableStart => holds_text = true,
            Token::BlockEnd if holds_text => keep_line_end(&mut taken, end),
            _ => {}
        }
        ended = end;
    }
    marked.push_str(source.get(taken..).unwrap_or_default());
    Ok(marked)
}

/// Before anything is built of it: what is too long or too deep is not read at all.
fn check_tokens(source: &str, syntax: &SyntaxConfig) -> Result<(), TemplateError> {
    // The blocks that are open, each with its branches: an `elif` is a block in the one before, for the engine.
    let (mut tokens, mut open, mut is_first) = (0, Vec::new(), false);
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token.map_err(|error| TemplateError::from_engine(&error))?;
        tokens += 1;
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("if" | "for" | "with") if is_first => open.push(1),
            Token::Ident("elif") if is_first => open.last_mut().into_iter().for_each(|branches| *branches += 1),
            Token::Ident("endif" | "endfor" | "endwith") if is_first => drop(open.pop()),
            _ => {}
        }
        is_first = matches!(token, Token::BlockStart);
        if tokens > TOKENS_MAX {
            return Err(refused(span, "an expression is too long: use several, or {% set %}"));
        }
        if open.iter().sum::<usize>() > DEPTH_MAX {
            return Err(refused(span, "blocks are nested too deep, or an {% if %} has too many {% elif %}"));
        }
    }
    Ok(())
}

fn refused(span: Span, why: impl Into<String>) -> TemplateError {
    TemplateError::at(span.start_line as usize, Fault::NotSupported, why)
}

fn unknown(span: Span, what: impl Into<String>) -> TemplateError {
    TemplateError::at(span.start_line as usize, Fault::UnknownName, what)
}

/// All names that the template binds anywhere.
fn collect_names<'a>(statements: &[ast::Stmt<'a>], bound: &mut BTreeSet<&'a str>) {
    for statement in statements {
        match statement {
            ast::Stmt::Template(template) => collect_names(&template.children, bound),
            ast::Stmt::ForLoop(each) => {
                targets(&each.target, bound);
                collect_names(&each.body, bound);
                collect_names(&each.else_body, bound);
            }
            ast::Stmt::IfCond(cond) => {
                collect_names(&cond.true_body, bound);
                collect_names(&cond.false_body, bound);
            }
            ast::Stmt::WithBlock(with) => {
                with.assignments.iter().for_each(|(target, _)| targets(target, bound));
                collect_names(&with.body, bound);
            }
            ast::Stmt::Set(set) => targets(&set.target, bound),
            _ => {}
        }
    }
}

fn targets<'a>(target: &ast::Expr<'a>, bound: &mut BTreeSet<&'a str>) {
    match target {
        ast::Expr::Var(name) => {
            bound.insert(name.id);
        }
        ast::Expr::List(list) => list.items.iter().for_each(|item| targets(item, bound)),
        ast::Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| targets(item, bound)),
        _ => {}
    }
}

struct Language<'a> {
    bound: BTreeSet<&'a str>,
}

impl Language<'_> {
    fn statements(&self, statements: &[ast::Stmt<'_>]) -> Result<(), TemplateError> {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&self, statement: &ast::Stmt<'_>) -> Result<(), TemplateError> {
        match statement {
            ast::Stmt::Template(template) => self.statements(&template.children),
            ast::Stmt::EmitRaw(_) => Ok(()),
            ast::Stmt::EmitExpr(emit) => self.written(&emit.expr, &mut 0),
            ast::Stmt::ForLoop(each) => {
                if each.recursive {
                    return Err(refused(each.span(), "there are no recursive loops"));
                }
                self.target(&each.target)?;
                self.value(&each.iter)?;
                each.filter_expr.iter().try_for_each(|filter| self.value(filter))?;
                self.statements(&each.body)?;
                self.statements(&each.else_body)
            }
            ast::Stmt::IfCond(cond) => {
                self.value(&cond.expr)?;
                self.statements(&cond.true_body)?;
                self.statements(&cond.false_body)
            }
            ast::Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    self.target(target)?;
                    self.value(value)?;
                }
                self.statements(&with.body)
            }
            ast::Stmt::Set(set) => {
                self.target(&set.target)?;
                self.value(&set.expr)
            }
            ast::Stmt::SetBlock(block) => {
                Err(refused(block.span(), "a {% set %} takes an expression: there are no blocks of it"))
            }
            ast::Stmt::AutoEscape(block) => Err(refused(block.span(), "there is no {% autoescape %}")),
            ast::Stmt::FilterBlock(block) => Err(refused(block.span(), "there is no {% filter %}")),
            ast::Stmt::Do(block) => Err(refused(block.span(), "there is no {% do %}")),
        }
    }

    /// Names are bound, and nothing else: not an attribute of something.
    fn target(&self, target: &ast::Expr<'_>) -> Result<(), TemplateError> {
        match target {
            ast::Expr::Var(name) if name.id != "device" => Ok(()),
            ast::Expr::List(list) => list.items.iter().try_for_each(|item| self.target(item)),
            ast::Expr::Tuple(tuple) => tuple.items.iter().try_for_each(|item| self.target(item)),
            other => Err(refused(other.span(), "this cannot be given another value")),
        }
    }

    /// What is written out: texts may be put together here.
    fn written(&self, expr: &ast::Expr<'_>, concatenated: &mut usize) -> Result<(), TemplateError> {
        match expr {
            ast::Expr::BinOp(op) if matches!(op.op, ast::BinOpKind::Concat) => {
                *concatenated += 1;
                if *concatenated >= CONCATENATED_MAX {
                    return Err(refused(op.span(), "too many values are put together: use several {{ }}"));
                }
                self.written(&op.left, concatenated)?;
                self.written(&op.right, concatenated)
            }
            other => self.value(other),
        }
    }

    fn value(&self, expr: &ast::Expr<'_>) -> Result<(), TemplateError> {
        match expr {
            ast::Expr::Const(value) => match value.value.as_str() {
                Some(text) if text.len() > words::VALUE_MAX => Err(refused(value.span(), "a text is too long")),
                Some(_) | None => Ok(()),
            },
            ast::Expr::Var(name) if self.bound.contains(name.id) => Ok(()),
            ast::Expr::Var(name) => {
                Err(unknown(name.span(), format!("there is no `{}`: a template knows `device`", name.id)))
            }
            ast::Expr::GetAttr(attr) => {
                self.attribute(&attr.expr, Some(attr.name), attr.span())?;
                self.value(&attr.expr)
            }
            ast::Expr::GetItem(item) => {
                let key = match &item.subscript_expr {
                    ast::Expr::Const(key) => key.value.as_str(),
                    _ => None,
                };
                self.attribute(&item.expr, key, item.span())?;
                self.value(&item.subscript_expr)?;
                self.value(&item.expr)
            }
            ast::Expr::UnaryOp(op) => self.value(&op.expr),
            ast::Expr::BinOp(op) => self.operation(op),
            ast::Expr::Compare(compare) => {
                self.value(&compare.expr)?;
                compare.ops.iter().try_for_each(|op| self.value(&op.expr))
            }
            ast::Expr::IfExpr(cond) => {
                self.value(&cond.test_expr)?;
                self.value(&cond.true_expr)?;
                cond.false_expr.iter().try_for_each(|other| self.value(other))
            }
            ast::Expr::Filter(filter) => {
                if !words::is_filter(filter.name) {
                    return Err(unknown(filter.span(), format!("there is no filter `{}`", filter.name)));
                }
                filter.expr.iter().try_for_each(|of| self.value(of))?;
                self.arguments(&filter.args, filter.span())
            }
            ast::Expr::Test(test) => {
                if !words::is_test(test.name) {
                    return Err(unknown(test.span(), format!("there is no test `{}`", test.name)));
                }
                self.value(&test.expr)?;
                self.arguments(&test.args, test.span())
            }
            ast::Expr::Call(call) => {
                match &call.expr {
                    ast::Expr::Var(name) if name.id == "range" => {}
                    ast::Expr::Var(name) => {
                        return Err(unknown(name.span(), format!("there is no function `{}`", name.id)));
                    }
                    other => {
                        return Err(refused(other.span(), "values have no methods: use filters, as in name|upper"));
                    }
                }
                self.arguments(&call.args, call.span())
            }
            ast::Expr::List(list) => constants(&list.items, list.span()),
            ast::Expr::Tuple(tuple) => constants(&tuple.items, tuple.span()),
            ast::Expr::Map(map) => {
                constants(&map.keys, map.span())?;
                constants(&map.values, map.span())
            }
            ast::Expr::Slice(slice) => Err(refused(slice.span(), "there are no slices: use split, first or last")),
        }
    }

    fn operation(&self, op: &ast::Spanned<ast::BinOp<'_>>) -> Result<(), TemplateError> {
        match op.op {
            ast::BinOpKind::Concat => {
                return Err(refused(op.span(), "~ stands in {{ }} alone, where its result is written out"));
            }
            ast::BinOpKind::Add if !is_number(&op.left) && !is_number(&op.right) => {
                return Err(refused(
                    op.span(),
                    "+ is for numbers: make one with |int; texts are put together in {{ }}",
                ));
            }
            ast::BinOpKind::Mul if !is_number(&op.left) || !is_number(&op.right) => {
                return Err(refused(op.span(), "* is for numbers: make them with |int"));
            }
            ast::BinOpKind::Add
            | ast::BinOpKind::Mul
            | ast::BinOpKind::Sub
            | ast::BinOpKind::Div
            | ast::BinOpKind::FloorDiv
            | ast::BinOpKind::Rem
            | ast::BinOpKind::Pow
            | ast::BinOpKind::Eq
            | ast::BinOpKind::Ne
            | ast::BinOpKind::Lt
            | ast::BinOpKind::Lte
            | ast::BinOpKind::Gt
            | ast::BinOpKind::Gte
            | ast::BinOpKind::ScAnd
            | ast::BinOpKind::ScOr
            | ast::BinOpKind::In => {}
        }
        self.value(&op.left)?;
        self.value(&op.right)
    }

    /// A device has four attributes.
    fn attribute(&self, of: &ast::Expr<'_>, name: Option<&str>, span: Span) -> Result<(), TemplateError> {
        let is_device = matches!(of, ast::Expr::Var(name) if name.id == "device");
        match name {
            Some(name) if is_device && !matches!(name, "name" | "labels" | "annotations" | "model") => {
                let what = format!("there is no `device.{name}`: a device has name, labels, annotations and model");
                Err(unknown(span, what))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn arguments(&self, arguments: &[ast::CallArg<'_>], span: Span) -> Result<(), TemplateError> {
        arguments.iter().try_for_each(|argument| match argument {
            ast::CallArg::Pos(value) | ast::CallArg::Kwarg(_, value) => self.value(value),
            ast::CallArg::PosSplat(_) | ast::CallArg::KwargSplat(_) => {
                Err(refused(span, "arguments are given one by one"))
            }
        })
    }
}

/// A list in a list, of a list, of a list would be walked for ever.
fn constants(items: &[ast::Expr<'_>], span: Span) -> Result<(), TemplateError> {
    let is_constant = |item: &ast::Expr<'_>| match item {
        ast::Expr::Const(value) => value.value.as_str().is_none_or(|text| text.len() <= words::VALUE_MAX),
        _ => false,
    };
    if items.iter().all(is_constant) { Ok(()) } else { Err(refused(span, "a list or map is of constants alone")) }
}

/// Whether an expression is a number, or an error, whatever its values are.
fn is_number(expr: &ast::Expr<'_>) -> bool {
    match expr {
        ast::Expr::Const(value) => value.value.kind() == ValueKind::Number,
        ast::Expr::UnaryOp(op) => matches!(op.op, ast::UnaryOpKind::Neg),
        ast::Expr::BinOp(op) => match op.op {
            ast::BinOpKind::Sub
            | ast::BinOpKind::Div
            | ast::BinOpKind::FloorDiv
            | ast::BinOpKind::Rem
            | ast::BinOpKind::Pow => true,
            ast::BinOpKind::Add => is_number(&op.left) || is_number(&op.right),
            ast::BinOpKind::Mul => is_number(&op.left) && is_number(&op.right),
            _ => false,
        },
        ast::Expr::Filter(filter) => match filter.name {
            // With a default they may give that.
            "int" | "float" => filter.args.is_empty(),
            "abs" | "round" | "length" | "count" => true,
            _ => false,
        },
        ast::Expr::GetAttr(attr) => {
            let is_loop = matches!(&attr.expr, ast::Expr::Var(name) if name.id == "loop");
            is_loop && matches!(attr.name, "index" | "index0" | "revindex" | "revindex0" | "length")
        }
        _ => false,
    }
}
