// Holds custom resources to the Prometheus operator's own types: values by its JSON schemas, and names by its TypeScript
// declarations, as the schemas take fields that they do not know and an API server prunes those.
//
//   node custom_resources.mjs NODE_MODULES <OBJECTS.json      one fault a line
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const modules = process.argv[2];
const typescript = createRequire(`${modules}/`)('typescript');
const ofKind = (object) => `${modules}/@kubernetes-models/prometheus-operator/${object.apiVersion}/${object.kind}`;
const objects = JSON.parse(fs.readFileSync(0, 'utf8'));
const name = (object) => `${object.kind} ${object.metadata.name}`;

for (const object of objects) {
  const { [object.kind]: Kind } = await import(pathToFileURL(`${ofKind(object)}.js`));
  try {
    new Kind(structuredClone(object)).validate();
  } catch (error) {
    console.log(`${name(object)}: ${error.message}`);
  }
}

// Of an object that is written out, the compiler names every field that its type has not.
const source = objects.map((object, index) =>
  `import type { I${object.kind} as T${index} } from ${JSON.stringify(ofKind(object))};\n`
  + `export const o${index}: T${index} = ${JSON.stringify(object)};\n`).join('');
const file = `${modules}/objects.ts`;
const { ModuleKind, ModuleResolutionKind, ScriptTarget } = typescript;
const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], target: ScriptTarget.ES2022, module: ModuleKind.ESNext,
  moduleResolution: ModuleResolutionKind.Bundler };
const host = typescript.createCompilerHost(options);
const { fileExists, getSourceFile } = host;
host.fileExists = (path) => path === file || fileExists(path);
host.getSourceFile = (path, ...rest) => (path === file ? typescript.createSourceFile(path, source, ScriptTarget.ES2022)
  : getSourceFile(path, ...rest));
for (const { start, messageText } of typescript.getPreEmitDiagnostics(typescript.createProgram([file], options, host))) {
  const line = source.slice(0, start).split('\n').length - 1;
  console.log(`${name(objects[Math.floor(line / 2)])}: ${typescript.flattenDiagnosticMessageText(messageText, ' ')}`);
}
