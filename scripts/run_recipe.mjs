// The same as run_recipe.py for a recipe in JavaScript; arrays are left in arrays.json as nested lists.
//
//     node scripts/run_recipe.mjs RECIPE.mjs embed JOB.json OUTPUT_DIR
//
// RECIPE.mjs lies in a folder with its packages in node_modules.

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [recipe, step, job, output] = process.argv.slice(2);
const read = (...path) => JSON.parse(readFileSync(join(...path), "utf-8"));
const write = (name, value) => writeFileSync(join(output, name), JSON.stringify(value));

if (step !== "embed") throw new Error(`step ${step} is not to be had in JavaScript`);
const { embedders } = await import(pathToFileURL(recipe));
const { models, queries, documents } = read(job);
const arrays = {};
for (const [name, paths] of Object.entries(models)) {
  const [embedQuery, embedDocuments] = await embedders(paths.onnx_model_path);
  arrays[`${name}.queries`] = await embedQuery(queries);
  arrays[`${name}.documents`] = await embedDocuments(documents);
}
write("arrays.json", arrays);
const folder = dirname(recipe);
const versions = { node: process.versions.node };
for (const name of Object.keys(read(folder, "package.json").dependencies)) {
  versions[name] = read(folder, "node_modules", name, "package.json").version;
}
write("values.json", { versions });
