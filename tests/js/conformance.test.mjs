import { test } from 'node:test'
import { cases, run } from './conformance.mjs'

for (const { name, ...rest } of cases) test(name, () => run(rest))
