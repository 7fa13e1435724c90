//! Safetensors files made byte by byte, valid or not.

/// A safetensors file, byte by byte: `[header length, header, data]`.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A tensor for [`archive`]: its name, dtype, shape and bytes.
pub type Tensor<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

/// The file of those tensors and metadata.
pub fn archive(metadata: &[(&str, &str)], tensors: &[Tensor<'_>]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let pairs: Vec<String> = metadata
        .iter()
        .map(|(k, v)| format!("{k:?}:{v:?}"))
        .collect();
    entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        entries.push(format!(
            "{name:?}:{{\"dtype\":{dtype:?},\"shape\":{shape:?},\"data_offsets\":{offsets:?}}}"
        ));
        data.extend(bytes);
    }
    file(&format!("{{{}}}", entries.join(",")), &data)
}

/// The values' bytes, little-endian.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Metadata of the index of [`index_tensors`].
pub const METADATA: [(&str, &str); 4] = [
    ("num_subvectors", "2"),
    ("bits", "1"),
    ("init_offset", "3"),
    ("metric", "l2"),
];

/// Tensors of an index of `[1 batch, 2 heads, 2 sub-vectors, 2 centroids, 3 components]`, 4 codes.
pub fn index_tensors() -> [Tensor<'static>; 2] {
    let centroids: Vec<f32> = (0..24).map(|i| i as f32).collect();
    [
        (
            "centroids",
            "F32",
            vec![1, 2, 2, 2, 3],
            f32_bytes(&centroids),
        ),
        ("codes", "U8", vec![1, 2, 4, 2], [0, 1, 1, 0].repeat(4)),
    ]
}

/// Tensors of `[2 kv heads, 5 tokens, 4 components]` and `[4 query heads, 1 query]`.
pub fn kv_tensors() -> [Tensor<'static>; 2] {
    [
        ("keys", "F32", vec![2, 5, 4], f32_bytes(&[1.5; 40])),
        ("queries", "F32", vec![4, 1, 4], f32_bytes(&[-2.0; 16])),
    ]
}
