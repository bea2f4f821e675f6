// SPDX-License-Identifier: Apache-2.0
//! Native plans as the JVM describes them, made into operators.
//!
//! The messages are our own: they say what Spark's nodes say, not what DataFusion calls it, so that neither side has to
//! follow the other's releases. This is the first, minimal set: scan, filter, project; the next step of the adapter
//! adds one message per operator here and nothing elsewhere.
//!
//! Invariants: columns are bound by position; every expression says its own type where Spark and DataFusion could
//! differ (casts are Spark's decision, so none is added here); a plan has one partition.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow_ipc::reader::StreamReader;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{self, Column};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use prost::{Message, Oneof};

use crate::config;
use crate::error::{ArrowContext, Result, SparkError};
use crate::exec::{PullSender, ScanExec};

/// Plans nested deeper are refused: building them is recursive.
const MAX_DEPTH: usize = 256;

/// Argument of `createPlan`.
#[derive(Clone, PartialEq, Message)]
pub struct PlanMessage {
    /// The root.
    #[prost(message, optional, tag = "1")]
    pub root: Option<NodeMessage>,
    /// Rows of a batch.
    #[prost(uint32, tag = "2")]
    pub batch_rows: u32,
    /// Workers of the runtime, if this plan is the first: `spark.executor.cores`.
    #[prost(uint32, tag = "3")]
    pub threads: u32,
}

/// An operator.
#[derive(Clone, PartialEq, Message)]
pub struct NodeMessage {
    /// Which.
    #[prost(oneof = "Node", tags = "1, 2, 3")]
    pub node: Option<Node>,
}

/// The operators.
#[derive(Clone, PartialEq, Oneof)]
pub enum Node {
    /// A leaf fed by the JVM.
    #[prost(message, tag = "1")]
    Scan(ScanMessage),
    /// Rows for which a predicate holds.
    #[prost(message, tag = "2")]
    Filter(Box<FilterMessage>),
    /// Computed columns.
    #[prost(message, tag = "3")]
    Project(Box<ProjectMessage>),
}

/// See [`Node::Scan`].
#[derive(Clone, PartialEq, Message)]
pub struct ScanMessage {
    /// Number of the input in `createPlan`'s array.
    #[prost(uint32, tag = "1")]
    pub input: u32,
    /// Declared schema, as an Arrow IPC schema message.
    #[prost(bytes = "vec", tag = "2")]
    pub schema: Vec<u8>,
}

/// See [`Node::Filter`].
#[derive(Clone, PartialEq, Message)]
pub struct FilterMessage {
    /// What is filtered.
    #[prost(message, optional, boxed, tag = "1")]
    pub child: Option<Box<NodeMessage>>,
    /// A boolean expression.
    #[prost(message, optional, tag = "2")]
    pub predicate: Option<ExprMessage>,
}

/// See [`Node::Project`].
#[derive(Clone, PartialEq, Message)]
pub struct ProjectMessage {
    /// What is projected.
    #[prost(message, optional, boxed, tag = "1")]
    pub child: Option<Box<NodeMessage>>,
    /// One expression per column.
    #[prost(message, repeated, tag = "2")]
    pub columns: Vec<ExprMessage>,
    /// Their names.
    #[prost(string, repeated, tag = "3")]
    pub names: Vec<String>,
}

/// An expression.
#[derive(Clone, PartialEq, Message)]
pub struct ExprMessage {
    /// Which.
    #[prost(oneof = "Expr", tags = "1, 2, 3, 4, 5")]
    pub expr: Option<Expr>,
}

/// The expressions.
#[derive(Clone, PartialEq, Oneof)]
pub enum Expr {
    /// Column of this position.
    #[prost(uint32, tag = "1")]
    Bound(u32),
    /// The value in the only row and column of this Arrow IPC stream.
    #[prost(bytes = "vec", tag = "2")]
    Literal(Vec<u8>),
    /// An operator of two operands, which have one type.
    #[prost(message, tag = "3")]
    Binary(Box<BinaryMessage>),
    /// Negation.
    #[prost(message, tag = "4")]
    Not(Box<ExprMessage>),
    /// Whether the operand is null.
    #[prost(message, tag = "5")]
    IsNull(Box<ExprMessage>),
}

/// See [`Expr::Binary`].
#[derive(Clone, PartialEq, Message)]
pub struct BinaryMessage {
    /// `=`, `<`, `<=`, `>`, `>=`, `AND`, `OR`.
    #[prost(string, tag = "1")]
    pub operator: String,
    /// Left operand.
    #[prost(message, optional, boxed, tag = "2")]
    pub left: Option<Box<ExprMessage>>,
    /// Right operand.
    #[prost(message, optional, boxed, tag = "3")]
    pub right: Option<Box<ExprMessage>>,
}

/// The operators of a plan whose leaves ask for batches by `requests`, and the number of inputs they use.
pub fn build(root: &NodeMessage, requests: &PullSender, inputs: usize) -> Result<Arc<dyn ExecutionPlan>> {
    node(root, requests, inputs, 0)
}

fn node(message: &NodeMessage, requests: &PullSender, inputs: usize, depth: usize) -> Result<Arc<dyn ExecutionPlan>> {
    check_depth(depth)?;
    let child = |child: &Option<Box<NodeMessage>>| {
        node(child.as_deref().ok_or_else(|| missing("child"))?, requests, inputs, depth + 1)
    };
    match message.node.as_ref().ok_or_else(|| missing("node"))? {
        Node::Scan(scan) => {
            let input = scan.input as usize;
            if input >= inputs {
                return Err(SparkError::Invalid(format!("a scan of input {input} of {inputs}")));
            }
            Ok(Arc::new(ScanExec::new(input, config::schema(&scan.schema)?, requests.clone())))
        }
        Node::Filter(filter) => {
            let child = child(&filter.child)?;
            let predicate = filter.predicate.as_ref().ok_or_else(|| missing("predicate"))?;
            let predicate = expression(predicate, &child.schema(), depth)?;
            Ok(Arc::new(FilterExec::try_new(predicate, child)?))
        }
        Node::Project(project) => {
            let child = child(&project.child)?;
            if project.columns.len() != project.names.len() {
                return Err(SparkError::Invalid("a projection with more columns than names, or fewer".to_owned()));
            }
            let schema = child.schema();
            let columns = project.columns.iter().zip(&project.names).map(|(column, name)| {
                Ok(ProjectionExpr { expr: expression(column, &schema, depth)?, alias: name.clone() })
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            Ok(Arc::new(ProjectionExec::try_new(columns, child)?))
        }
    }
}

fn expression(message: &ExprMessage, schema: &Schema, depth: usize) -> Result<Arc<dyn PhysicalExpr>> {
    check_depth(depth)?;
    let operand = |operand: &Option<Box<ExprMessage>>| {
        expression(operand.as_deref().ok_or_else(|| missing("operand"))?, schema, depth + 1)
    };
    match message.expr.as_ref().ok_or_else(|| missing("expression"))? {
        Expr::Bound(position) => {
            let position = *position as usize;
            let field = schema.fields().get(position);
            let field = field.ok_or_else(|| SparkError::Invalid(format!("column {position} does not exist")))?;
            Ok(Arc::new(Column::new(field.name(), position)))
        }
        Expr::Literal(stream) => Ok(expressions::lit(literal(stream)?)),
        Expr::Binary(binary) => {
            let (left, right) = (operand(&binary.left)?, operand(&binary.right)?);
            let types = (left.data_type(schema)?, right.data_type(schema)?);
            if types.0 != types.1 {
                return Err(SparkError::Invalid(format!("{} of {} and {}", binary.operator, types.0, types.1)));
            }
            Ok(expressions::binary(left, operator(&binary.operator)?, right, schema)?)
        }
        Expr::Not(inner) => Ok(expressions::not(expression(inner, schema, depth + 1)?)?),
        Expr::IsNull(inner) => Ok(expressions::is_null(expression(inner, schema, depth + 1)?)?),
    }
}

fn operator(name: &str) -> Result<Operator> {
    Ok(match name {
        "=" => Operator::Eq,
        "<" => Operator::Lt,
        "<=" => Operator::LtEq,
        ">" => Operator::Gt,
        ">=" => Operator::GtEq,
        "AND" => Operator::And,
        "OR" => Operator::Or,
        other => return Err(SparkError::Unsupported(format!("operator {other}"))),
    })
}

fn literal(stream: &[u8]) -> Result<ScalarValue> {
    let reader = StreamReader::try_new(stream, None).context("read a literal")?;
    let batches = reader.collect::<Result<Vec<_>, _>>().context("read a literal")?;
    match batches.as_slice() {
        [batch] if batch.num_rows() == 1 && batch.num_columns() == 1 => {
            Ok(ScalarValue::try_from_array(batch.column(0), 0)?)
        }
        _ => Err(SparkError::Invalid("a literal that is not one value".to_owned())),
    }
}

fn check_depth(depth: usize) -> Result<()> {
    if depth < MAX_DEPTH { Ok(()) } else { Err(SparkError::Unsupported(format!("a plan deeper than {MAX_DEPTH}"))) }
}

fn missing(what: &str) -> SparkError {
    SparkError::Invalid(format!("a plan without its {what}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field};
    use arrow_ipc::writer::StreamWriter;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::tests::schema_message;

    fn boxed<T>(value: T) -> Option<Box<T>> {
        Some(Box::new(value))
    }

    fn scan() -> NodeMessage {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Boolean, true)]);
        NodeMessage { node: Some(Node::Scan(ScanMessage { input: 0, schema: schema_message(&schema) })) }
    }

    fn column(position: u32) -> ExprMessage {
        ExprMessage { expr: Some(Expr::Bound(position)) }
    }

    fn seven() -> ExprMessage {
        let value: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let batch = RecordBatch::try_from_iter([("value", value)]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        ExprMessage { expr: Some(Expr::Literal(writer.into_inner().unwrap())) }
    }

    fn compare(operator: &str, left: ExprMessage, right: ExprMessage) -> ExprMessage {
        let binary = BinaryMessage { operator: operator.to_owned(), left: boxed(left), right: boxed(right) };
        ExprMessage { expr: Some(Expr::Binary(Box::new(binary))) }
    }

    fn filter(predicate: ExprMessage, child: NodeMessage) -> NodeMessage {
        let filter = FilterMessage { child: boxed(child), predicate: Some(predicate) };
        NodeMessage { node: Some(Node::Filter(Box::new(filter))) }
    }

    fn built(root: &NodeMessage) -> Result<String> {
        let (sender, _requests) = mpsc::unbounded_channel();
        // As it comes from the JVM.
        let root = NodeMessage::decode(root.encode_to_vec().as_slice()).unwrap();
        let plan = build(&root, &sender, 1)?;
        Ok(datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string())
    }

    #[test]
    fn messages_become_operators() {
        let not = |inner| ExprMessage { expr: Some(Expr::Not(Box::new(inner))) };
        let is_null = |inner| ExprMessage { expr: Some(Expr::IsNull(Box::new(inner))) };
        let predicate = compare("OR", not(is_null(column(0))), compare(">=", column(0), seven()));
        let columns = vec![column(1), compare("<", seven(), column(0))];
        let project = ProjectMessage {
            child: boxed(filter(predicate, scan())),
            columns,
            names: vec!["b".to_owned(), "less".to_owned()],
        };
        let root = NodeMessage { node: Some(Node::Project(Box::new(project))) };
        assert_eq!(
            built(&root).unwrap(),
            "ProjectionExec: expr=[b@1 as b, 7 < a@0 as less]\n  \
             FilterExec: NOT a@0 IS NULL OR a@0 >= 7\n    \
             ScanExec: input=0\n"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |root: &NodeMessage| built(root).unwrap_err().chain();
        assert!(refused(&NodeMessage::default()).contains("without its node"));
        assert!(refused(&filter(column(2), scan())).contains("column 2"));
        assert!(refused(&filter(compare("=", column(0), column(1)), scan())).contains("of Int64 and Boolean"));
        assert!(refused(&filter(compare("+", column(0), column(0)), scan())).contains("operator +"));
        let broken = ExprMessage { expr: Some(Expr::Literal(vec![1, 2, 3])) };
        assert!(refused(&filter(broken, scan())).contains("literal"));
        // A predicate has to be true or false.
        assert!(built(&filter(column(0), scan())).is_err());
        let schema = schema_message(&Schema::empty());
        let other = NodeMessage { node: Some(Node::Scan(ScanMessage { input: 1, schema })) };
        assert!(refused(&other).contains("input 1 of 1"));
    }

    #[test]
    fn deep_plans_are_refused_before_they_are_built() {
        let nested = |depth: usize| (0..depth).fold(scan(), |child, _| filter(column(1), child));
        let build = |depth| build(&nested(depth), &mpsc::unbounded_channel().0, 1);
        assert!(build(MAX_DEPTH - 1).is_ok());
        assert!(matches!(build(MAX_DEPTH), Err(SparkError::Unsupported(_))));
    }
}
