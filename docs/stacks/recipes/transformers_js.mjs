// /// script
// dependencies = ["@huggingface/transformers"]
// ///
// transformers.js: load the model twice, with `model_file_name: "model_query"` for queries.

import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

export async function embedders(onnx_model_path) {
  // For a folder; with a Hub id, leave these two out.
  env.allowRemoteModels = false;
  env.localModelPath = dirname(onnx_model_path);
  const name = basename(onnx_model_path);
  const queries = await pipeline("feature-extraction", name, { model_file_name: "model_query", dtype: "fp32" });
  // What a base model does beyond pooling and normalizing is in a file of its own.
  const finished = existsSync(join(onnx_model_path, "onnx", "model_document.onnx"));
  const file = finished ? "model_document" : "model";
  const documents = await pipeline("feature-extraction", name, { model_file_name: file, dtype: "fp32" });
  // transformers.js puts no prompt before a text, and cuts it at the tokenizer's length, which may be more than the
  // model's max_seq_length: shorten longer texts first.
  const settings = await readFile(join(onnx_model_path, "config_sentence_transformers.json"), "utf-8");
  const { query, document } = JSON.parse(settings).prompts;
  const embed = async (model, prompt, texts) => {
    const vectors = await model(texts.map((text) => prompt + text), { pooling: "mean", normalize: true });
    return vectors.tolist();
  };
  return [(texts) => embed(queries, query, texts), (texts) => embed(documents, document, texts)];
}
