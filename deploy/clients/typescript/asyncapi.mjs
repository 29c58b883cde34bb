// Checks an AsyncAPI document with the parser of the AsyncAPI initiative.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
for (const d of diagnostics) {
  console.error(`${process.argv[2]}:${d.range.start.line + 1}: ${d.message}`);
}
// Only a newer version of AsyncAPI is no reason to fail.
if (document === undefined || diagnostics.some((d) => d.code !== "asyncapi-latest-version")) {
  process.exit(1);
}
console.log(`${process.argv[2]}: ${document.operations().all().length} operations are as AsyncAPI wants them`);
