// SPDX-License-Identifier: Apache-2.0
//! A library for a test of the plug-in: native methods that fail in every way, behind the guard that all of ours have.

use ballista_spark::SparkError;
use ballista_spark::jvm::guard::{Checked, guard};
use jni::JNIEnv;
use jni::objects::{JObject, JValue};
use jni::sys::jlong;

/// Panics.
#[unsafe(no_mangle)]
#[allow(non_snake_case)] // The name is JNI's.
pub extern "system" fn Java_org_apache_comet_BorderProbe_panic(mut env: JNIEnv<'_>, _this: JObject<'_>) -> jlong {
    guard(&mut env, |_| panic!("on purpose"))
}

/// Fails as a corrupt block does.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "system" fn Java_org_apache_comet_BorderProbe_fail(mut env: JNIEnv<'_>, _this: JObject<'_>) -> jlong {
    guard(&mut env, |_| Err(SparkError::CorruptBlock("on purpose".to_owned())))
}

/// Calls `LongSupplier.getAsLong`, whose exception crosses.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "system" fn Java_org_apache_comet_BorderProbe_call<'l>(
    mut env: JNIEnv<'l>,
    _this: JObject<'l>,
    supplier: JObject<'l>,
) -> jlong {
    guard(&mut env, |env| {
        let arguments: [JValue<'_, '_>; 0] = [];
        env.call_method(&supplier, "getAsLong", "()J", &arguments).and_then(|value| value.j()).checked(env)
    })
}
