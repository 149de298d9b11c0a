//! The header of one safetensors file: every tensor's type, shape and place, or everything that is wrong with it.
//! Accepts what the safetensors library accepts, save names given twice. Never reads a tensor's data.

use std::fmt;
use std::marker::PhantomData;

use indexmap::IndexMap;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use swiftlm_ir::quant::Float;
use swiftlm_models::StoredType;

use super::files::Blob;

/// Most bytes a header may have, as the safetensors library limits it.
const HEADER_LIMIT: u64 = 100_000_000;

/// The field of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Element type.
    pub(crate) dtype: StoredType,
    /// Extents, outermost first.
    pub(crate) shape: Vec<usize>,
    /// First byte in the file.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// Pairs of a JSON object in their order, names given twice included.
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Collect<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = vec![];
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

/// A field of a header. One that is no tensor is kept, so that its fault can be told without ending the reading.
#[derive(Deserialize)]
#[serde(untagged)]
enum Field {
    Tensor(TensorInfo),
    Other(Value),
}

/// Reads the header of a file.
///
/// # Errors
/// Everything wrong with it, each sentence naming the file and, where there is one, the tensor.
pub(crate) fn read(blob: &Blob) -> Result<IndexMap<String, Placed>, Vec<String>> {
    let file = &blob.name;
    let one = |problem: String| vec![format!("{file}: {problem}")];
    let mut length = [0; 8];
    if blob.bytes < 8 {
        return Err(one(format!("truncated: {} bytes are too few for a safetensors file", blob.bytes)));
    }
    blob.read(0, &mut length).map_err(|e| vec![e])?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        return Err(one(format!("is no safetensors file: a header of {length} bytes is more than {HEADER_LIMIT}")));
    }
    if length > blob.bytes - 8 {
        return Err(one(format!("truncated: a header of {length} bytes in a file of {}", blob.bytes)));
    }
    let mut header = vec![0; length as usize];
    blob.read(8, &mut header).map_err(|e| vec![e])?;
    let fields: Pairs<Field> =
        serde_json::from_slice(&header).map_err(|e| one(format!("the header cannot be read: {e}")))?;
    let data = 8 + length;
    let mut problems = vec![];
    let mut tensors: IndexMap<String, TensorInfo> = IndexMap::new();
    let mut metadata = false;
    for (name, field) in fields.0 {
        if name == METADATA {
            if std::mem::replace(&mut metadata, true) {
                problems.push(format!("{file}: `{METADATA}` is given twice"));
            }
            problems.extend(bad_metadata(field).map(|e| format!("{file}: `{METADATA}`: {e}")));
            continue;
        }
        match field {
            Field::Tensor(info) => {
                if tensors.insert(name.clone(), info).is_some() {
                    problems.push(format!("{file}: tensor `{name}` is given twice"));
                }
            }
            Field::Other(value) => {
                let reason = serde_json::from_value::<TensorInfo>(value).err();
                let reason = reason.map_or_else(|| "a field is given twice".to_owned(), |e| e.to_string());
                problems.push(format!("{file}: tensor `{name}`: {reason}"));
            }
        }
    }
    tensors.sort_by(|_, a, _, b| a.data_offsets.cmp(&b.data_offsets));
    problems.extend(misplaced(file, &tensors, (blob.bytes - data) as usize));
    if !problems.is_empty() {
        return Err(problems);
    }
    let placed = tensors.into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        let dtype = stored(info.dtype);
        (name, Placed { dtype, shape: info.shape, start: data + from as u64, bytes: (to - from) as u64 })
    });
    Ok(placed.collect())
}

fn bad_metadata(field: Field) -> Option<String> {
    match field {
        Field::Other(Value::Null) => None,
        Field::Other(Value::Object(texts)) => {
            let (name, _) = texts.iter().find(|(_, v)| !v.is_string())?;
            Some(format!("expected a string in `{name}`"))
        }
        _ => Some("expected an object of strings".to_owned()),
    }
}

/// What is wrong with the sizes and places of tensors that are sorted by place: sizes must be those of the shapes, and the
/// tensors must fill the data without gap or overlap.
fn misplaced(file: &str, tensors: &IndexMap<String, TensorInfo>, held: usize) -> Vec<String> {
    let mut problems = vec![];
    let mut end = 0;
    let mut beyond = vec![];
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        let elements = info.shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        let at = format!("{file}: tensor `{name}`");
        match bits {
            None => problems.push(format!("{at}: shape {:?} is too large", info.shape)),
            Some(bits) if bits % 8 != 0 => problems.push(format!("{at}: {bits} bits are no whole bytes")),
            Some(bits) if to.checked_sub(from) != Some(bits / 8) => problems.push(format!(
                "{at}: {} of shape {:?} take {} bytes, but the data is said to lie at {from}..{to}",
                info.dtype,
                info.shape,
                bits / 8
            )),
            Some(_) => {}
        }
        if from < end {
            problems.push(format!("{at}: its data begins at {from}, inside the tensor before, which ends at {end}"));
        } else if from > end {
            problems.push(format!("{at}: its data begins at {from}, but the tensor before ends at {end}"));
        }
        end = end.max(to);
        if to > held {
            beyond.push(format!("`{name}`"));
        }
    }
    if end > held {
        problems.push(format!(
            "{file}: truncated: {held} bytes of data of {end}; missing or cut: {}; fetch the file again",
            beyond.join(", ")
        ));
    } else if end < held {
        problems.push(format!("{file}: {} bytes behind the last tensor belong to none", held - end));
    }
    problems
}

fn stored(dtype: Dtype) -> StoredType {
    match dtype {
        Dtype::F32 => StoredType::Float(Float::F32),
        Dtype::F16 => StoredType::Float(Float::F16),
        Dtype::BF16 => StoredType::Float(Float::Bf16),
        Dtype::U32 => StoredType::U32,
        Dtype::BOOL => StoredType::Other("BOOL"),
        Dtype::U8 => StoredType::U8,
        Dtype::I8 => StoredType::Other("I8"),
        Dtype::U16 => StoredType::Other("U16"),
        Dtype::I16 => StoredType::Other("I16"),
        Dtype::I32 => StoredType::Other("I32"),
        Dtype::U64 => StoredType::Other("U64"),
        Dtype::I64 => StoredType::Other("I64"),
        Dtype::F64 => StoredType::Other("F64"),
        Dtype::C64 => StoredType::Other("C64"),
        Dtype::F4 => StoredType::Other("F4"),
        Dtype::F6_E2M3 => StoredType::Other("F6_E2M3"),
        Dtype::F6_E3M2 => StoredType::Other("F6_E3M2"),
        Dtype::F8_E4M3 => StoredType::Other("F8_E4M3"),
        Dtype::F8_E5M2 => StoredType::Other("F8_E5M2"),
        Dtype::F8_E8M0 => StoredType::Other("F8_E8M0"),
        Dtype::F8_E4M3FNUZ => StoredType::Other("F8_E4M3FNUZ"),
        Dtype::F8_E5M2FNUZ => StoredType::Other("F8_E5M2FNUZ"),
        _ => StoredType::Other("a type of a later safetensors version"),
    }
}
