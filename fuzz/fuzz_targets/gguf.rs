//! A GGUF file: header, metadata, tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxr_compute::Bytes;
use mlxr_weights::{Limits, open_memory};

mod touch;

fuzz_target!(|data: &[u8]| {
    let files = vec![("m.gguf".to_owned(), Bytes::from(data.to_vec()))];
    let Ok(model) = open_memory(files, &Limits::default()) else { return };
    for (key, value) in model.meta().iter() {
        assert!(value.describe().len() < 1000);
        let _ = (model.meta().get::<u32>(key), model.meta().get::<&str>(key), model.meta().per_layer::<f32>(key, 2));
    }
    touch::everything(&model);
    let _ = (model.summary(), model.meta().chat_templates());
});
