//! `candle-peer FILE.gguf PREFILL GENERATE`: tokens a second of a prompt and of tokens one by one, as one line of JSON.
//! Threads are those of `RAYON_NUM_THREADS`. The first round is not counted.

use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

fn step(model: &mut ModelWeights, ids: &[u32], at: usize) -> Result<u32> {
    let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    model.forward(&input, at)?.squeeze(0)?.argmax(0)?.to_scalar::<u32>()
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, prefill, generate] = &args[..] else { panic!("candle-peer FILE.gguf PREFILL GENERATE") };
    let (prefill, generate): (usize, usize) = (prefill.parse().unwrap(), generate.parse().unwrap());
    let ids: Vec<u32> = (0..prefill as u32).map(|i| (i * 37 + 11) % 1000).collect();
    for round in 0..2 {
        // A model keeps its cache, so each round reads the file again.
        let mut file = std::fs::File::open(path)?;
        let content = Content::read(&mut file)?;
        let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
        let start = Instant::now();
        let mut token = step(&mut model, &ids, 0)?;
        let filled = Instant::now();
        for i in 0..generate {
            token = step(&mut model, &[token], prefill + i)?;
        }
        let (prompt, decode) = ((filled - start).as_secs_f64(), filled.elapsed().as_secs_f64());
        if round == 1 {
            let (prompt, decode) = (prefill as f64 / prompt, generate as f64 / decode);
            println!("{{\"prefill\": {prompt:.2}, \"decode\": {decode:.2}}}");
        }
    }
    Ok(())
}
