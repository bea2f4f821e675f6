// SPDX-License-Identifier: Apache-2.0
//! The stages of a first plan, in the formats of `EXPLAIN`.
//!
//! ```text
//! indent     a line per stage, then its operators, a line each
//! tree       a line per stage, then DataFusion's tree of it
//! graphviz   one digraph: a cluster per stage, an edge for every exchange
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ballista_core::StageId;
use ballista_plan::reader::ShuffleReaderExec;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, displayable};

use super::super::cut::partitions;
use super::{FirstPlan, Stage};

/// Width of a drawn tree; what is wider loses its rightmost operators.
const TREE_WIDTH: usize = 240;

/// From an operator to its input, drawn against the flow of rows as DataFusion does.
const EDGE: &str = "arrowhead=none, arrowtail=normal, dir=back";

/// What an `EXPLAIN` looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainFormat {
    /// Indented lines.
    Indent,
    /// Boxes.
    Tree,
    /// A graph for `dot`.
    Graphviz,
}

/// How much an `EXPLAIN` shows, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplainStyle {
    /// The format.
    pub format: ExplainFormat,
    /// Every detail of operators.
    pub verbose: bool,
}

pub(super) fn render(plan: &FirstPlan, style: ExplainStyle) -> String {
    if style.format == ExplainFormat::Graphviz {
        return graphviz(plan);
    }
    let mut text = format!("{}\n", plan.headline);
    for stage in &plan.stages {
        text.push_str(&title(stage));
        text.push('\n');
        for note in &stage.notes {
            text.push_str(&format!("  note: {note}\n"));
        }
        if style.format == ExplainFormat::Tree {
            let tree = displayable(stage.plan.as_ref()).set_tree_maximum_render_width(TREE_WIDTH).tree_render();
            text.push_str(&tree.to_string());
        } else {
            let lines = operator_lines(&stage.plan, style.verbose).into_iter().map(|(depth, line)| (depth + 1, line));
            text.push_str(&indented(&lines.collect::<Vec<_>>()));
        }
    }
    text
}

/// A stage in one line.
fn title(stage: &Stage) -> String {
    let mut title = format!("stage {}", stage.id);
    if stage.inputs.is_empty() {
        title.push_str(": ");
    } else {
        let inputs: Vec<String> = stage.inputs.iter().map(ToString::to_string).collect();
        let word = if inputs.len() == 1 { "stage" } else { "stages" };
        title.push_str(&format!(", after {word} {}: ", inputs.join(", ")));
    }
    let count = partitions(&stage.plan);
    let parallelism = match (stage.one_task, stage.at_once, count) {
        (true, _, _) => "one task".to_owned(),
        (false, true, _) => format!("{count} partitions"),
        (false, false, _) => format!("up to {count} partitions, by size"),
    };
    title.push_str(&format!("{parallelism}; {}", stage.output.describe()));
    if let Some(limit) = stage.row_limit {
        title.push_str(&format!("; {limit} rows are enough"));
    }
    title
}

/// The operators of `plan`, inputs after what reads them, each with its depth and in one line.
pub fn operator_lines(plan: &Arc<dyn ExecutionPlan>, verbose: bool) -> Vec<(usize, String)> {
    let mut lines = vec![];
    add_lines(plan, 0, verbose, &mut lines);
    lines
}

/// Lines by their depth.
pub fn indented(lines: &[(usize, String)]) -> String {
    lines.iter().map(|(depth, line)| format!("{:indent$}{line}\n", "", indent = 2 * depth)).collect()
}

fn add_lines(plan: &Arc<dyn ExecutionPlan>, depth: usize, verbose: bool, lines: &mut Vec<(usize, String)>) {
    let format = if verbose { DisplayFormatType::Verbose } else { DisplayFormatType::Default };
    let line = Operator(plan.as_ref(), format).to_string();
    // A literal may hold the end of a line.
    lines.push((depth, line.replace('\r', "\\r").replace('\n', "\\n")));
    for child in plan.children() {
        add_lines(child, depth + 1, verbose, lines);
    }
}

/// An operator without its inputs.
struct Operator<'a>(&'a dyn ExecutionPlan, DisplayFormatType);

impl fmt::Display for Operator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(self.1, f)
    }
}

fn graphviz(plan: &FirstPlan) -> String {
    let mut graph = Graph { text: String::new(), next: 0, roots: BTreeMap::new(), exchanges: vec![] };
    graph.line(1, &format!("label={}", quoted(&plan.headline)));
    for stage in &plan.stages {
        graph.line(1, &format!("subgraph cluster_stage_{} {{", stage.id));
        graph.line(2, &format!("label={}", quoted(&title(stage))));
        if !stage.notes.is_empty() {
            graph.line(2, &format!("tooltip={}", quoted(&stage.notes.join("\n"))));
        }
        let root = graph.add(&stage.plan);
        graph.roots.insert(stage.id, root);
        graph.line(1, "}");
    }
    for (reader, stage, broadcast) in std::mem::take(&mut graph.exchanges) {
        if let Some(root) = graph.roots.get(&stage).copied() {
            let label = if broadcast { "broadcast" } else { "exchange" };
            graph.line(1, &format!("{reader} -> {root} [{EDGE}, style=dashed, label={label}]"));
        }
    }
    format!("// Ballista: the stages of a query\ndigraph {{\n{}}}\n", graph.text)
}

struct Graph {
    text: String,
    next: usize,
    /// The topmost operator of each stage.
    roots: BTreeMap<StageId, usize>,
    /// Readers, the stages they read, and whether all of it.
    exchanges: Vec<(usize, StageId, bool)>,
}

impl Graph {
    fn line(&mut self, depth: usize, line: &str) {
        self.text.push_str(&format!("{:indent$}{line}\n", "", indent = 2 * depth));
    }

    /// Adds the operators of a stage; returns the number of the topmost.
    fn add(&mut self, plan: &Arc<dyn ExecutionPlan>) -> usize {
        let id = self.next;
        self.next += 1;
        let label = Operator(plan.as_ref(), DisplayFormatType::Default).to_string();
        self.line(2, &format!("{id}[shape=box label={}]", quoted(&label)));
        if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>() {
            self.exchanges.push((id, reader.stage(), reader.is_broadcast()));
        }
        for child in plan.children() {
            let child = self.add(child);
            self.line(2, &format!("{id} -> {child} [{EDGE}]"));
        }
        id
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\r', "").replace('\n', "\\n"))
}
