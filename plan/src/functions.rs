// SPDX-License-Identifier: Apache-2.0
//! Where functions come from: DataFusion, `datafusion-spark` (feature `spark-compat`), or the application.
//!
//! Plans name their functions, and whoever decodes one finds them by name. But the functions of `datafusion-spark` have
//! names of DataFusion's own, with other semantics, and only the session that planned the query knows which it meant.
//! So the codec adds the origin of a function wherever both have the name, and of every Spark function:
//!
//! ```text
//!   abs of datafusion-spark      ──► FunctionOrigin { spark: "abs" }
//!   abs of DataFusion            ──► FunctionOrigin { builtin: "abs" }     if Spark has that name too
//!   what the user's codec wrote  ──► FunctionOrigin { user: … }
//!   everything else              ──► nothing, found by name
//! ```

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
#[cfg(feature = "spark-compat")]
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::{SessionState, SessionStateDefaults};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use prost::Message;
use proto::function_origin::Origin;

use crate::codec::corrupt;

/// Whether this build has the functions of `datafusion-spark`.
pub const HAS_SPARK_FUNCTIONS: bool = cfg!(feature = "spark-compat");

/// A kind of functions.
pub(crate) trait Function: PartialEq + Sized + 'static {
    fn own_name(&self) -> &str;
    fn own_aliases(&self) -> &[String];
    /// Type of the implementation: what a function is, whatever it was configured with.
    fn implementation(&self) -> TypeId;
    /// The same function with more names.
    fn also_called(&self, names: Vec<&'static str>) -> Self;
    fn known() -> &'static Known<Self>;
}

/// The functions of a kind that need no registry to be found.
pub(crate) struct Known<F: 'static> {
    builtin: HashMap<String, Arc<F>>,
    spark: HashMap<String, Spark<F>>,
    /// Names that mean a Spark function in a session with those.
    ambiguous: HashSet<String>,
}

struct Spark<F> {
    function: Arc<F>,
    /// As registered: called by all names of the functions that it replaces, too. If one of these were left, it would
    /// be up to chance which of both keeps the name when DataFusion builds the session anew.
    replacement: Arc<F>,
}

impl<F: Function> Known<F> {
    fn new(builtin: Vec<Arc<F>>, spark: Vec<Arc<F>>) -> Self {
        let mut ambiguous: HashSet<_> = spark.iter().flat_map(|f| names(f.as_ref())).map(str::to_owned).collect();
        let mut replace = |function: Arc<F>| {
            let is_replaced =
                |other: &&Arc<F>| names(other.as_ref()).any(|name| names(function.as_ref()).any(|n| n == name));
            let others = builtin.iter().filter(is_replaced).flat_map(|other| names(other.as_ref()));
            let more: Vec<_> = others.filter(|name| ambiguous.insert((*name).to_owned())).map(str::to_owned).collect();
            // Once per process, and a handful.
            let more = more.into_iter().map(|name| &*name.leak()).collect::<Vec<_>>();
            let replacement =
                if more.is_empty() { Arc::clone(&function) } else { Arc::new(function.also_called(more)) };
            (function.own_name().to_owned(), Spark { function, replacement })
        };
        let spark = spark.into_iter().map(&mut replace).collect();
        let builtin = builtin.into_iter().map(|function| (function.own_name().to_owned(), function)).collect();
        Self { builtin, spark, ambiguous }
    }

    fn is_builtin(&self, function: &F) -> bool {
        let known = self.builtin.get(function.own_name());
        known.is_some_and(|known| known.implementation() == function.implementation())
    }

    fn is_spark(&self, function: &F) -> bool {
        self.spark.get(function.own_name()).is_some_and(|known| {
            known.function.implementation() == function.implementation() || known.replacement.as_ref() == function
        })
    }

    fn is_ambiguous(&self, function: &F) -> bool {
        names(function).any(|name| self.ambiguous.contains(name))
    }
}

fn names<F: Function>(function: &F) -> impl Iterator<Item = &str> {
    std::iter::once(function.own_name()).chain(function.own_aliases().iter().map(String::as_str))
}

macro_rules! functions {
    ($($function:ident: $builtin:ident, $spark:ident;)*) => {
        $(impl Function for $function {
            fn own_name(&self) -> &str {
                self.name()
            }

            fn own_aliases(&self) -> &[String] {
                self.aliases()
            }

            fn implementation(&self) -> TypeId {
                let implementation: &dyn Any = self.inner().as_ref();
                implementation.type_id()
            }

            fn also_called(&self, names: Vec<&'static str>) -> Self {
                self.clone().with_aliases(names)
            }

            fn known() -> &'static Known<Self> {
                #[cfg(feature = "spark-compat")]
                use datafusion_spark::$spark as spark;
                #[cfg(not(feature = "spark-compat"))]
                fn spark() -> Vec<Arc<$function>> {
                    vec![]
                }
                static KNOWN: LazyLock<Known<$function>> =
                    LazyLock::new(|| Known::new(SessionStateDefaults::$builtin(), spark()));
                &KNOWN
            }
        })*
    };
}

functions! {
    ScalarUDF: default_scalar_functions, all_default_scalar_functions;
    AggregateUDF: default_aggregate_functions, all_default_aggregate_functions;
    WindowUDF: default_window_functions, all_default_window_functions;
}

/// Writes where `function` comes from. What neither of us ships is left to `user`, the application's codec.
pub(crate) fn encode<F: Function>(
    function: &F,
    buffer: &mut Vec<u8>,
    user: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let known = F::known();
    let name = || function.own_name().to_owned();
    let origin = if known.is_spark(function) {
        Origin::Spark(name())
    } else if known.is_ambiguous(function) && known.is_builtin(function) {
        Origin::Builtin(name())
    } else {
        let mut bytes = Vec::new();
        user(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        Origin::User(bytes.into())
    };
    proto::FunctionOrigin { origin: Some(origin) }
        .encode(buffer)
        .map_err(|error| DataFusionError::Internal(format!("encoding a function: {error}")))
}

/// Finds the function that was encoded as `buffer`; `user` is asked for those of the application.
pub(crate) fn decode<F: Function>(buffer: &[u8], user: impl FnOnce(&[u8]) -> Result<Arc<F>>) -> Result<Arc<F>> {
    if buffer.is_empty() {
        return user(buffer);
    }
    let message = proto::FunctionOrigin::decode(buffer).map_err(|error| corrupt("function", &error))?;
    let (found, name) = match message.origin {
        Some(Origin::User(bytes)) => return user(&bytes),
        Some(Origin::Spark(name)) => (F::known().spark.get(&name).map(|spark| &spark.function), name),
        Some(Origin::Builtin(name)) => (F::known().builtin.get(&name), name),
        None => return Err(DataFusionError::Internal("decoding: a function of an unknown origin".to_owned())),
    };
    found.map(Arc::clone).ok_or_else(|| {
        DataFusionError::Plan(format!(
            "function {name} comes from datafusion-spark, which this process was built without (cargo feature \
             spark-compat)"
        ))
    })
}

/// `state` with the functions of `datafusion-spark` over DataFusion's own, and its expression planner before all others.
/// Functions of the application stay.
///
/// Errors: a build without the feature `spark-compat`.
#[cfg(not(feature = "spark-compat"))]
pub fn with_spark_functions(_: SessionState) -> Result<SessionState> {
    Err(DataFusionError::Configuration("this program was built without the cargo feature spark-compat".to_owned()))
}

/// `state` with the functions of `datafusion-spark` over DataFusion's own, and its expression planner before all others.
/// Functions of the application stay.
#[cfg(feature = "spark-compat")]
pub fn with_spark_functions(state: SessionState) -> Result<SessionState> {
    use datafusion::execution::FunctionRegistry as _;

    fn own<F: Function>(functions: &HashMap<String, Arc<F>>) -> Vec<Arc<F>> {
        let is_own = |function: &&Arc<F>| !F::known().is_builtin(function) && !F::known().is_spark(function);
        functions.values().filter(is_own).cloned().collect()
    }

    fn replacements<F: Function>() -> impl Iterator<Item = Arc<F>> {
        F::known().spark.values().map(|spark| Arc::clone(&spark.replacement))
    }

    let (id, config) = (state.session_id().to_owned(), state.config().clone());
    let mut builder = SessionStateBuilder::new_from_existing(state).with_session_id(id);
    let planner = Arc::new(datafusion_spark::planner::SparkFunctionPlanner);
    builder.expr_planners().get_or_insert_default().insert(0, planner);
    let mut state = builder.build();
    // What the builder was given would have it make a new default catalog.
    *state.config_mut() = config;
    let (scalar, aggregate) = (own(state.scalar_functions()), own(state.aggregate_functions()));
    let window = own(state.window_functions());
    for function in replacements().chain(scalar) {
        state.register_udf(function)?;
    }
    for function in replacements().chain(aggregate) {
        state.register_udaf(function)?;
    }
    for function in replacements().chain(window) {
        state.register_udwf(function)?;
    }
    Ok(state)
}

#[cfg(test)]
#[cfg(feature = "spark-compat")]
mod tests {
    use datafusion::execution::FunctionRegistry as _;
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    use datafusion::prelude::SessionContext;
    use datafusion_proto::physical_plan::{DefaultPhysicalExtensionCodec, PhysicalExtensionCodec};

    use super::*;
    use crate::codec::PlanCodec;

    fn spark_state() -> SessionState {
        with_spark_functions(SessionContext::new().state()).unwrap()
    }

    fn kind(function: &ScalarUDF) -> &'static str {
        let known = ScalarUDF::known();
        match (known.is_spark(function), known.is_builtin(function)) {
            (true, false) => "spark",
            (false, true) => "builtin",
            _ => "own",
        }
    }

    #[test]
    fn a_session_that_is_built_anew_keeps_its_functions() {
        let state = spark_state();
        // In what order functions are registered anew is up to chance.
        for _ in 0..20 {
            let again = SessionStateBuilder::new_from_existing(state.clone()).build();
            assert_eq!(again.scalar_functions().len(), state.scalar_functions().len());
            for (name, function) in state.scalar_functions() {
                assert_eq!(again.udf(name).unwrap().as_ref(), function.as_ref(), "{name}");
            }
            for (name, function) in state.aggregate_functions() {
                assert_eq!(again.udaf(name).unwrap().as_ref(), function.as_ref(), "{name}");
            }
        }
        for name in ["abs", "length", "character_length", "power", "datetrunc", "list_repeat", "xxhash64"] {
            assert_eq!(kind(&state.udf(name).unwrap()), "spark", "{name}");
        }
        assert_eq!(kind(&state.udf("sqrt").unwrap()), "builtin");
        assert!(AggregateUDF::known().is_spark(&state.udaf("mean").unwrap()));
    }

    #[test]
    fn every_function_is_found_by_its_origin_whatever_the_session_calls_by_that_name() {
        let codec = PlanCodec::default();
        let (spark, plain) = (spark_state(), SessionContext::new().state());
        let there_and_back = |function: &ScalarUDF, registry: &SessionState| {
            let mut buffer = Vec::new();
            codec.try_encode_udf(function, &mut buffer).unwrap();
            // As DataFusion does it.
            match buffer.is_empty() {
                true => registry.udf(function.name()).unwrap(),
                false => codec.try_decode_udf(function.name(), &buffer).unwrap(),
            }
        };
        for registry in [&spark, &plain] {
            for function in spark.scalar_functions().values().chain(plain.scalar_functions().values()) {
                let received = there_and_back(function, registry);
                assert_eq!(kind(&received), kind(function), "{}", function.name());
                assert_eq!(received.name(), function.name());
            }
            for function in spark.aggregate_functions().values().chain(plain.aggregate_functions().values()) {
                let mut buffer = Vec::new();
                codec.try_encode_udaf(function, &mut buffer).unwrap();
                let received = match buffer.is_empty() {
                    true => registry.udaf(function.name()).unwrap(),
                    false => codec.try_decode_udaf(function.name(), &buffer).unwrap(),
                };
                assert_eq!(AggregateUDF::known().is_spark(&received), AggregateUDF::known().is_spark(function));
            }
        }
    }

    #[test]
    fn functions_of_the_application_stay_and_are_its_codecs_business() {
        let own = |arguments: &[ColumnarValue]| Ok(arguments[0].clone());
        let int = arrow::datatypes::DataType::Int64;
        let own = create_udf("abs", vec![int.clone()], int, Volatility::Immutable, Arc::new(own));
        let context = SessionContext::new();
        context.register_udf(own.clone());
        let state = with_spark_functions(context.state()).unwrap();
        assert_eq!(kind(&state.udf("abs").unwrap()), "own");
        let mut buffer = Vec::new();
        PlanCodec::default().try_encode_udf(&own, &mut buffer).unwrap();
        assert!(buffer.is_empty());
        let speaking = PlanCodec::new(Arc::new(Speaking));
        speaking.try_encode_udf(&own, &mut buffer).unwrap();
        assert_eq!(speaking.try_decode_udf("abs", &buffer).unwrap().name(), "from b\"spoken\"");
        assert_eq!(speaking.try_decode_udf("abs", &[]).unwrap().name(), "from b\"\"");
    }

    /// Writes and reads bytes of its own.
    #[derive(Debug)]
    struct Speaking;

    impl PhysicalExtensionCodec for Speaking {
        fn try_decode(
            &self,
            buffer: &[u8],
            inputs: &[Arc<dyn datafusion::physical_plan::ExecutionPlan>],
            context: &datafusion::execution::TaskContext,
            converter: &dyn datafusion_proto::physical_plan::PhysicalProtoConverterExtension,
        ) -> Result<Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
            DefaultPhysicalExtensionCodec {}.try_decode(buffer, inputs, context, converter)
        }

        fn try_encode(
            &self,
            plan: Arc<dyn datafusion::physical_plan::ExecutionPlan>,
            buffer: &mut Vec<u8>,
            converter: &dyn datafusion_proto::physical_plan::PhysicalProtoConverterExtension,
        ) -> Result<()> {
            DefaultPhysicalExtensionCodec {}.try_encode(plan, buffer, converter)
        }

        fn try_encode_udf(&self, _: &ScalarUDF, buffer: &mut Vec<u8>) -> Result<()> {
            buffer.extend_from_slice(b"spoken");
            Ok(())
        }

        fn try_decode_udf(&self, _: &str, buffer: &[u8]) -> Result<Arc<ScalarUDF>> {
            let int = arrow::datatypes::DataType::Int64;
            let name = format!("from {:?}", bytes_of(buffer));
            let itself = |arguments: &[ColumnarValue]| Ok(arguments[0].clone());
            Ok(Arc::new(create_udf(&name, vec![int.clone()], int, Volatility::Immutable, Arc::new(itself))))
        }
    }

    fn bytes_of(buffer: &[u8]) -> prost::bytes::Bytes {
        buffer.to_vec().into()
    }
}
