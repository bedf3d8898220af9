/** The client as an npm package: installed under its name, from the folder in the checkout and from a tarball. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { build } from 'esbuild'
import { serve } from './helpers.mjs'

const run = promisify(execFile)
const PACKAGE = join(import.meta.dirname, '../../dwsps_channels/static/dwsps_channels')
const NAME = 'dwsps-channels'

/** A program that publishes to itself and prints what arrives. */
const PROGRAM = `
import { PSClient } from '${NAME}'
import WebSocket from 'ws'

const client = new PSClient(process.argv[2], { WebSocket })
client.subscribe('news', ({ message }) => {
  console.log(message)
  client.close()
})
client.publish('news', 'hello')
`

let folder
let tarball
let installed // a project that has it from the tarball

before(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'dwsps-')))
  const { stdout } = await npm('pack', '--pack-destination', folder, PACKAGE)
  tarball = stdout.trim()
  installed = await project('installed', join(folder, tarball))
})
after(() => rm(folder, { recursive: true }))

/** npm without a network, as the package has no dependencies. */
function npm(...args) {
  return run('npm', [...args, '--offline', '--no-audit', '--no-fund', '--loglevel', 'error'], {
    cwd: folder,
    env: { ...process.env, HOME: folder, npm_config_cache: join(folder, '.npm') },
  })
}

/** A project that has installed the package from `source`, and has the tests' `ws`. */
async function project(name, source) {
  const path = join(folder, name)
  await mkdir(path)
  await writeFile(join(path, 'package.json'), '{ "private": true, "type": "module" }')
  await npm('install', '--prefix', path, source)
  await symlink(join(import.meta.dirname, 'node_modules/ws'), join(path, 'node_modules/ws'))
  await writeFile(join(path, 'program.mjs'), PROGRAM)
  return path
}

test('the tarball holds the client, its types and its licence, and nothing else', async () => {
  const { version } = JSON.parse(await readFile(join(PACKAGE, 'package.json'), 'utf8'))
  assert.equal(tarball, `${NAME}-${version}.tgz`)
  const { stdout } = await run('tar', ['-tf', join(folder, tarball)])
  const parts = (await readdir(join(PACKAGE, `client-${version}`))).map((file) => `client-${version}/${file}`)
  assert.deepEqual(
    stdout.trim().split('\n').sort(),
    ['LICENSE', 'dwsps.d.ts', 'dwsps.js', 'package.json', ...parts].map((file) => `package/${file}`).sort(),
  )
})

const receives = async (t, program) => {
  const server = await serve(t)
  const { stdout } = await run(process.execPath, [program, server.url])
  assert.equal(stdout, 'hello\n')
}

test('installed from the tarball, Node imports it by name', (t) => receives(t, join(installed, 'program.mjs')))

test('installed from the checkout, Node imports it by name', async (t) => {
  await receives(t, join(await project('linked', PACKAGE), 'program.mjs'))
})

test('a bundler makes one file of it', async (t) => {
  const outfile = join(folder, 'bundle.mjs') // beside no node_modules
  const { warnings } = await build({
    entryPoints: [join(installed, 'program.mjs')],
    bundle: true,
    format: 'esm',
    platform: 'node',
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
    logLevel: 'silent',
    outfile,
  })
  assert.deepEqual(warnings, [])
  await receives(t, outfile)
})

test('the command in the manual makes one file for pages', async () => {
  const root = join(import.meta.dirname, '../..')
  const manual = await readFile(join(root, 'docs/reference/javascript.md'), 'utf8')
  const [, args] = manual.match(/^\$ npx esbuild (.+) --outfile=dwsps\.min\.js$/m)
  const outfile = join(folder, 'dwsps.min.mjs')
  const esbuild = join(import.meta.dirname, 'node_modules/esbuild/bin/esbuild')
  await run(esbuild, [...args.split(' '), `--outfile=${outfile}`, '--log-level=warning'], { cwd: root })
  const [bundled, modules] = await Promise.all([import(outfile), import(join(PACKAGE, 'dwsps.js'))])
  assert.deepEqual(Object.keys(bundled), Object.keys(modules))
  assert.equal(new bundled.PSError('closed', 'gone').message, 'closed: gone')
})

test('a bundler leaves it out if nothing of it is used', async () => {
  const contents = `import { PSClient } from '${NAME}'\nconsole.log(1)`
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: installed },
    bundle: true,
    format: 'esm',
    write: false,
  })
  assert.equal(outputFiles[0].text.replace(/\/\/.*\n/g, ''), 'console.log(1);\n')
})

for (const [resolution, module] of [
  ['bundler', 'esnext'],
  ['nodenext', 'nodenext'],
]) {
  test(`TypeScript finds its types by name, resolving as ${resolution}`, async () => {
    const usage = await readFile(join(import.meta.dirname, 'usage.mts'), 'utf8')
    await writeFile(join(installed, 'usage.mts'), usage.replace(/'[^']*\/dwsps\.js'/, `'${NAME}'`))
    const tsc = join(import.meta.dirname, 'node_modules/typescript/lib/tsc.js')
    const options = ['--noEmit', '--strict', '--skipDefaultLibCheck', '--target', 'es2022', '--lib', 'es2022,dom']
    const args = [tsc, ...options, '--module', module, '--moduleResolution', resolution, 'usage.mts']
    const done = await run(process.execPath, args, { cwd: installed }).catch((error) => error)
    assert.equal(done.stdout, '')
  })
}
