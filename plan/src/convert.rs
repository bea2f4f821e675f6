// SPDX-License-Identifier: Apache-2.0
//! The converter that plans and expressions go through, level by level, on their way to protocol buffers and back.
//!
//! Protocol buffers refuse messages that are nested more than 100 deep, so every few levels what is below becomes bytes
//! inside its parent, which begin to count anew:
//!
//! ```text
//!   a − b + c − … ─▶ [ a − b + c − bytes ] ─▶ [ … − bytes ] ─▶ [ … ]
//! ```
//!
//! What `datafusion-proto` loses of a node is added here; see [`crate::lost`].

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayData, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use ballista_proto as proto;
use datafusion::common::ScalarValue;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::expressions::{CastExpr, Literal, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr_with_converter;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::physical_expr_node::ExprType;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{
    PhysicalExprNode, PhysicalExtensionExprNode, PhysicalExtensionNode, PhysicalPlanNode, PhysicalSortExprNode,
    PhysicalSortExprNodeCollection,
};
use prost::Message;
use proto::expr_node::Expr;
use proto::plan_node::Node;

use crate::codec::corrupt;
use crate::lost::lost;
use crate::slice::{memory_scan, original_orderings};

/// Nodes and expressions per message; each is up to four messages deep, and types of columns come on top.
const LEVELS: usize = 12;

/// Stack that a few levels may need, and how much more is made when that is not left.
const STACK_LEFT: usize = 256 << 10;
const MORE_STACK: usize = 4 << 20;

/// Levels of a plan, those of its expressions included: as many as fit the stacks of the threads that plan and run.
const MAX_DEPTH: usize = 64 << 10;

/// Nodes of a plan, those of its expressions included.
const MAX_NODES: usize = 5_000_000;

/// Encodes or decodes one plan.
#[derive(Default)]
pub(crate) struct Converter {
    depth: Cell<usize>,
    nodes: Cell<usize>,
    /// Inputs of nodes are left out.
    is_shallow: bool,
}

impl Converter {
    /// Whether `plan` can be encoded, whatever its inputs are; the error says why not.
    pub(crate) fn check_node(plan: &Arc<dyn ExecutionPlan>, codec: &dyn PhysicalExtensionCodec) -> Result<()> {
        let converter = Self { is_shallow: true, ..Self::default() };
        converter.encode_node(plan, codec).map(drop).or_else(|error| {
            // Of the application's own nodes, `datafusion-proto` encodes the inputs by itself.
            let is_own =
                !plan.children().is_empty() && codec.try_encode(Arc::clone(plan), &mut vec![], &converter).is_ok();
            if is_own { Ok(()) } else { Err(error) }
        })
    }

    /// Runs `work` one level deeper, and says how deep that was.
    fn deeper<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, usize)> {
        let (depth, nodes) = (self.depth.get() + 1, self.nodes.get() + 1);
        check_size(depth, nodes)?;
        self.nodes.set(nodes);
        self.depth.set(depth);
        let done = with_stack(work);
        self.depth.set(depth - 1);
        Ok((done?, depth))
    }

    fn encode_node(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        if memory_scan(plan).is_some_and(is_written_wrong) {
            let message = "slices of columns of union or run-end encoded types in a table in memory".to_owned();
            return Err(DataFusionError::NotImplemented(message));
        }
        let mut node = PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), codec, self)?;
        if let (Some(memory), Some(PhysicalPlanType::MemoryScan(scan))) =
            (memory_scan(plan), &mut node.physical_plan_type)
        {
            scan.sort_information = self.encode_orderings(memory, codec)?;
        }
        let lost = lost(plan, &mut node)?;
        Ok(lost.into_iter().fold(node, |node, lost| extension(lost, vec![node])))
    }

    fn decode_expr(
        &self,
        proto: &PhysicalExprNode,
        input_schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match own_expr(proto)? {
            Some(Expr::Nested(bytes)) => {
                let inner = PhysicalExprNode::decode(bytes).map_err(|error| corrupt("expression", &error))?;
                // What was too deep may be a call with metadata as well. It is no level of its own.
                self.decode_expr(&inner, input_schema, ctx)
            }
            Some(Expr::Function(function)) => {
                let call = PhysicalExprNode::decode(function.call).map_err(|error| corrupt("expression", &error))?;
                let call = parse_physical_expr_with_converter(&call, input_schema, ctx, self)?;
                with_metadata(&call, function.metadata, input_schema)
            }
            _ => parse_physical_expr_with_converter(proto, input_schema, ctx, self),
        }
    }

    /// The orders of a table in memory, in columns of the table: the decoder applies the projection to them again.
    fn encode_orderings(
        &self,
        memory: &MemorySourceConfig,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<Vec<PhysicalSortExprNodeCollection>> {
        let encode = |key: &datafusion::physical_expr::PhysicalSortExpr| {
            Ok(PhysicalSortExprNode {
                expr: Some(Box::new(self.physical_expr_to_proto(&key.expr, codec)?)),
                asc: !key.options.descending,
                nulls_first: key.options.nulls_first,
            })
        };
        let collection = |ordering: &datafusion::physical_expr::LexOrdering| {
            let physical_sort_expr_nodes = ordering.iter().map(encode).collect::<Result<_>>()?;
            Ok(PhysicalSortExprNodeCollection { physical_sort_expr_nodes })
        };
        original_orderings(memory)?.iter().map(collection).collect()
    }
}

/// Whether Arrow's IPC writer, with which tables in memory are encoded, would write other rows than those of `memory`:
/// it does for slices of what holds unions or runs.
fn is_written_wrong(memory: &MemorySourceConfig) -> bool {
    let schema = memory.original_schema();
    if !schema.fields().iter().any(|field| has_unions_or_runs(field.data_type())) {
        return false;
    }
    let mut columns = memory.partitions().iter().flatten().flat_map(RecordBatch::columns);
    columns.any(|column| has_unions_or_runs(column.data_type()) && is_slice(&column.to_data()))
}

pub(crate) fn has_unions_or_runs(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) | DataType::RunEndEncoded(..) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_unions_or_runs(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_unions_or_runs(field.data_type())),
        DataType::Dictionary(_, values) => has_unions_or_runs(values),
        _ => false,
    }
}

/// Whether some of the rows that `data` holds do not belong to it.
pub(crate) fn is_slice(data: &ArrayData) -> bool {
    let starts_late = match data.data_type() {
        DataType::List(_) | DataType::Map(..) => data.buffers()[0].typed_data::<i32>().first() > Some(&0),
        DataType::LargeList(_) => data.buffers()[0].typed_data::<i64>().first() > Some(&0),
        _ => false,
    };
    data.offset() > 0 || starts_late || data.child_data().iter().any(is_slice)
}

/// An error for a plan that is too large to be walked.
fn check_size(depth: usize, nodes: usize) -> Result<()> {
    let limits = [(depth, MAX_DEPTH, "levels"), (nodes, MAX_NODES, "nodes")];
    match limits.into_iter().find(|(count, most, _)| count > most) {
        None => Ok(()),
        Some((_, most, what)) => Err(DataFusionError::Plan(format!(
            "the plan has more than {most} {what}, expressions included, which is the limit; write the query in another way"
        ))),
    }
}

/// Runs `work` with enough stack for a few levels.
pub(crate) fn with_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_LEFT, MORE_STACK, work)
}

fn extension(node: Node, inputs: Vec<PhysicalPlanNode>) -> PhysicalPlanNode {
    let node = proto::PlanNode { node: Some(node) }.encode_to_vec();
    PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(PhysicalExtensionNode { node, inputs })) }
}

/// The encoded plan that `node` holds as bytes.
fn nested_plan(node: &PhysicalPlanNode) -> Result<Option<PhysicalPlanNode>> {
    let Some(PhysicalPlanType::Extension(extension)) = &node.physical_plan_type else { return Ok(None) };
    if !extension.inputs.is_empty() {
        return Ok(None);
    }
    let inner = proto::PlanNode::decode(extension.node.as_slice()).map_err(|error| corrupt("plan node", &error))?;
    let Some(Node::Nested(bytes)) = inner.node else { return Ok(None) };
    PhysicalPlanNode::decode(bytes).map(Some).map_err(|error| corrupt("plan", &error))
}

/// The expression of our own that `node` is.
fn own_expr(node: &PhysicalExprNode) -> Result<Option<Expr>> {
    let Some(ExprType::Extension(extension)) = &node.expr_type else { return Ok(None) };
    let inner = proto::ExprNode::decode(extension.expr.as_slice()).map_err(|error| corrupt("expression", &error))?;
    Ok(inner.expr)
}

fn extension_expr(expr: Expr) -> PhysicalExprNode {
    let expr = proto::ExprNode { expr: Some(expr) }.encode_to_vec();
    let extension = PhysicalExtensionExprNode { expr, inputs: vec![] };
    PhysicalExprNode { expr_id: None, expr_type: Some(ExprType::Extension(extension)) }
}

/// A literal that `datafusion-proto` would decode as one of another type, as an expression that it keeps: a number of
/// 16 bits is exact in 32.
fn kept(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let literal = expr.downcast_ref::<Literal>().map(Literal::value);
    let Some(ScalarValue::Float16(Some(value))) = literal else { return Arc::clone(expr) };
    Arc::new(CastExpr::new(lit(f32::from(*value)), DataType::Float16, None))
}

/// The metadata of the result of a scalar function.
fn metadata_of(expr: &Arc<dyn PhysicalExpr>) -> HashMap<String, String> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>();
    let field = call.and_then(|call| call.return_field(&Schema::empty()).ok());
    field.map(|field| field.metadata().clone()).unwrap_or_default()
}

fn with_metadata(
    expr: &Arc<dyn PhysicalExpr>,
    metadata: HashMap<String, String>,
    input_schema: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() else { return Ok(Arc::clone(expr)) };
    let field = call.return_field(input_schema)?.as_ref().clone().with_metadata(metadata);
    let (function, config) = (Arc::new(call.fun().clone()), Arc::new(call.config_options().clone()));
    Ok(Arc::new(ScalarFunctionExpr::new(call.name(), function, call.args().to_vec(), field.into(), config)))
}

impl PhysicalProtoConverterExtension for Converter {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let decode = || match nested_plan(proto)? {
            Some(inner) => inner.try_into_physical_plan_with_context(ctx, self),
            None => proto.try_into_physical_plan_with_context(ctx, self),
        };
        Ok(self.deeper(decode)?.0)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        if self.is_shallow {
            return Ok(PhysicalPlanNode::default());
        }
        let (node, depth) = self.deeper(|| self.encode_node(plan, codec))?;
        if !depth.is_multiple_of(LEVELS) {
            return Ok(node);
        }
        Ok(extension(Node::Nested(node.encode_to_vec().into()), vec![]))
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        input_schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(self.deeper(|| self.decode_expr(proto, input_schema, ctx))?.0)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        let (mut node, depth) = self.deeper(|| serialize_physical_expr_with_converter(&kept(expr), codec, self))?;
        let metadata = metadata_of(expr);
        if !metadata.is_empty() {
            node = extension_expr(Expr::Function(proto::FunctionNode { call: node.encode_to_vec().into(), metadata }));
        }
        if !depth.is_multiple_of(LEVELS) {
            return Ok(node);
        }
        Ok(extension_expr(Expr::Nested(node.encode_to_vec().into())))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RunArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;
    use crate::codec::PlanCodec;

    #[test]
    fn plans_that_are_too_deep_or_too_large_are_refused() {
        let converter = Converter { depth: Cell::new(MAX_DEPTH - 1), ..Converter::default() };
        let codec = PlanCodec::default();
        assert!(converter.physical_expr_to_proto(&lit(1), &codec).is_ok());
        let two_levels: Arc<dyn PhysicalExpr> = Arc::new(CastExpr::new(lit(1), DataType::Int64, None));
        let error = converter.physical_expr_to_proto(&two_levels, &codec).unwrap_err();
        assert!(error.to_string().contains("more than 65536 levels"), "{error}");
        let converter = Converter { nodes: Cell::new(MAX_NODES), ..Converter::default() };
        let error = converter.physical_expr_to_proto(&lit(1), &codec).unwrap_err();
        assert!(error.to_string().contains("more than 5000000 nodes"), "{error}");
    }

    #[test]
    fn slices_that_would_come_back_as_other_rows_are_refused() {
        let runs: RunArray<Int32Type> = ["a", "a", "b", "b"].into_iter().collect();
        let column: ArrayRef = Arc::new(runs);
        let schema = Arc::new(Schema::new(vec![Field::new("a", column.data_type().clone(), true)]));
        let whole = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
        for (batch, is_sent) in [(whole.slice(1, 2), false), (whole, true)] {
            let plan: Arc<dyn ExecutionPlan> =
                MemorySourceConfig::try_new_exec(&[vec![batch]], Arc::clone(&schema), None).unwrap();
            assert_eq!(PlanCodec::default().encode(&plan).is_ok(), is_sent);
        }
    }
}
