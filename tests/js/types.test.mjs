import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import * as module from '../../dwsps_channels/static/dwsps_channels/dwsps.js'

const require = createRequire(import.meta.url)

test('dwsps.d.ts types the client as it is used', async () => {
  // It need not check what TypeScript itself declares.
  const options = ['--noEmit', '--strict', '--skipDefaultLibCheck', '--target', 'es2022', '--module', 'esnext', '--moduleResolution', 'bundler', '--lib', 'es2022,dom']
  const args = [require.resolve('typescript/lib/tsc.js'), ...options, 'usage.mts']
  const { error, stdout } = await new Promise((resolve) => {
    execFile(process.execPath, args, { cwd: import.meta.dirname }, (error, stdout) => resolve({ error, stdout }))
  })
  assert.equal(stdout, '')
  assert.equal(error, null)
})

test('dwsps.d.ts declares every method and property, and no other', async () => {
  const ts = require('typescript')
  const path = require.resolve('../../dwsps_channels/static/dwsps_channels/dwsps.d.ts')
  const source = ts.createSourceFile(path, ts.sys.readFile(path), ts.ScriptTarget.ES2022)
  const classes = source.statements.filter(ts.isClassDeclaration)
  assert.deepEqual(classes.map(({ name }) => name.text).concat('default').sort(), Object.keys(module).sort())
  const declared = classes
    .find(({ name }) => name.text === 'PSClient')
    .members.map((member) => (ts.isConstructorDeclaration(member) ? 'constructor' : member.name.text))
  assert.deepEqual(declared.sort(), Object.getOwnPropertyNames(module.PSClient.prototype).sort())
})
