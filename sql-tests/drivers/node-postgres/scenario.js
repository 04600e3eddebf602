// node-postgres: pools, parameters, named statements, streams of COPY. Prints each check's name, a tab, and what came of it.

const { Client, Pool, types } = require('pg')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')
const Cursor = require('pg-cursor')
const { pipeline } = require('node:stream/promises')
const { Readable, Writable } = require('node:stream')
const assert = require('node:assert/strict')

types.setTypeParser(20, BigInt)

async function withClient(work) {
  const client = new Client()
  // A connection that ends is told by the query that was under way, too.
  client.on('error', () => {})
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

const ids = (from, to) => Array.from({ length: to - from }, (_, at) => BigInt(from + at))

async function fails(code, promise) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.code, code, error.message)
    return true
  })
}

const checks = {
  connect: (db) => db.query('SELECT 1 + 1 AS two').then(({ rows, fields }) => {
    assert.deepEqual(rows, [{ two: 2 }])
    assert.equal(fields[0].dataTypeID, 23)
  }),

  async schema(db) {
    await db.query('DROP TABLE IF EXISTS n_item')
    await db.query('CREATE TABLE n_item (id bigint PRIMARY KEY, name text NOT NULL, price numeric, tags text[], doc jsonb, data bytea)')
    await db.query('CREATE INDEX n_item_name ON n_item (name)')
    const sql = 'SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position'
    const { rows } = await db.query({ text: sql, values: ['n_item'], rowMode: 'array' })
    assert.deepEqual(rows.flat(), ['id', 'name', 'price', 'tags', 'doc', 'data'])
  },

  async migrations(db) {
    await db.query('BEGIN')
    await db.query('ALTER TABLE n_item ADD COLUMN stock integer NOT NULL DEFAULT 0')
    await db.query('CREATE INDEX n_item_stock ON n_item (stock)')
    await db.query('COMMIT')
    await db.query('BEGIN')
    await db.query('ALTER TABLE n_item ADD COLUMN lost integer')
    await fails('42P07', db.query('CREATE TABLE n_item (id bigint PRIMARY KEY)'))
    await db.query('ROLLBACK')
    await fails('42703', db.query('SELECT lost FROM n_item WHERE id = 1'))
  },

  async crud(db) {
    for (const id of ids(1, 21)) await db.query('INSERT INTO n_item (id, name, price) VALUES ($1, $2, $3)', [id, `item ${id}`, 1.5])
    assert.equal((await db.query('SELECT count(*) FROM n_item')).rows[0].count, 20n)
    assert.equal((await db.query('SELECT id, name FROM n_item')).rowCount, 20)
    assert.equal((await db.query('UPDATE n_item SET stock = 2 WHERE id > $1', [15])).rowCount, 5)
    assert.equal((await db.query('DELETE FROM n_item WHERE id = ANY($1)', [[19, 20]])).rowCount, 2)
    const { rows } = await db.query('INSERT INTO n_item (id, name) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id, name', ['again'])
    assert.deepEqual(rows, [{ id: 1n, name: 'again' }])
    assert.equal((await db.query("SELECT id FROM n_item WHERE id = 3; SELECT name FROM n_item WHERE id = 4"))[1].rows[0].name, 'item 4')
  },

  async transactions(db) {
    await db.query('BEGIN')
    for (const id of ids(1, 5)) await db.query('UPDATE n_item SET price = 10 WHERE id = $1', [id])
    await db.query('SAVEPOINT here')
    await db.query('UPDATE n_item SET price = 99 WHERE id = 2')
    await db.query('ROLLBACK TO SAVEPOINT here')
    await db.query('COMMIT')
    const { rows } = await db.query('SELECT id FROM n_item WHERE price = 10')
    assert.deepEqual(rows.map((row) => row.id).sort(), ids(1, 5))
  },

  async 'prepared statements'(db) {
    for (const id of ids(1, 11)) {
      const { rows } = await db.query({ name: 'by-id', text: 'SELECT id FROM n_item WHERE id = $1', values: [id] })
      assert.deepEqual(rows, [{ id }])
    }
  },

  async 'a prepared statement survives DDL'(db) {
    const query = { name: 'all', text: 'SELECT id, stock FROM n_item WHERE id = $1', values: [3] }
    await db.query(query)
    await withClient((other) => other.query('ALTER TABLE n_item ADD COLUMN later text'))
    assert.equal((await db.query(query)).rowCount, 1)
  },

  async 'COPY in'(db) {
    const lines = ids(1000, 2000).map((id) => `${id}\tcopied \\t ${id}\n`)
    const stream = db.query(copyFrom('COPY n_item (id, name) FROM STDIN'))
    await pipeline(Readable.from(lines), stream)
    assert.equal(stream.rowCount, 1000)
    assert.equal((await db.query('SELECT name FROM n_item WHERE id = 1999')).rows[0].name, 'copied \t 1999')
  },

  async 'COPY out'(db) {
    const pieces = []
    const sink = new Writable({ write: (piece, _, done) => { pieces.push(piece); done() } })
    await pipeline(db.query(copyTo('COPY n_item (id) TO STDOUT')), sink)
    const copied = Buffer.concat(pieces).toString().trim().split('\n').map(Number)
    assert.equal(copied.filter((id) => id >= 1000).length, 1000)
  },

  async 'large values'(db) {
    const data = Buffer.alloc(5_000_000, 'binary\0')
    for (const id of [1, 2, 3]) await db.query('UPDATE n_item SET data = $2 WHERE id = $1', [id, data])
    for (const id of [1, 2, 3]) assert.ok(data.equals((await db.query('SELECT data FROM n_item WHERE id = $1', [id])).rows[0].data))
  },

  async arrays(db) {
    const tags = ['a', null, 'b "c" \\']
    await db.query('UPDATE n_item SET tags = $2 WHERE id = $1', [4, tags])
    assert.deepEqual((await db.query('SELECT tags FROM n_item WHERE id = 4')).rows[0].tags, tags)
  },

  async JSON(db) {
    const doc = { n: [1, null, 'ü'] }
    await db.query('UPDATE n_item SET doc = $2 WHERE id = $1', [5, doc])
    assert.deepEqual((await db.query("SELECT doc, doc->'n'->>2 AS last FROM n_item WHERE id = 5")).rows, [{ doc, last: 'ü' }])
  },

  async types(db) {
    const sql = "SELECT $1::timestamptz AS at, $2::numeric AS number, $3::bool AS yes, $4::uuid AS id, $5::float8 AS float, NULL AS none"
    const at = new Date('2024-01-01T12:00:00Z')
    const { rows } = await db.query(sql, [at, '1.50', true, '00000000-0000-0000-0000-000000000007', 1.5])
    assert.deepEqual(rows[0], { at, number: '1.50', yes: true, id: '00000000-0000-0000-0000-000000000007', float: 1.5, none: null })
  },

  async errors(db) {
    await fails('42601', db.query('SELEC 1'))
    await fails('23505', db.query("INSERT INTO n_item (id, name) VALUES (1, 'x')"))
    await fails('23502', db.query('INSERT INTO n_item (id) VALUES ($1)', [-1]))
    await fails('22P02', db.query('SELECT $1::int', ['x']))
    await db.query('BEGIN')
    await fails('22012', db.query('SELECT 1 / 0'))
    await fails('25P02', db.query('SELECT 1'))
    await db.query('ROLLBACK')
    assert.equal((await db.query('SELECT 1 AS one')).rows[0].one, 1)
  },

  async cursor(db) {
    const cursor = db.query(new Cursor('SELECT g FROM generate_series(1, 100) AS g'))
    assert.equal((await cursor.read(10)).length, 10)
    assert.equal((await cursor.read(200)).length, 90)
    await cursor.close()
    const all = db.query(new Cursor('SELECT id FROM n_item WHERE id >= 1000'))
    assert.equal((await all.read(100)).length, 100)
    await all.close()
  },

  async pool() {
    const pool = new Pool({ max: 4 })
    const numbers = await Promise.all(ids(1, 21).map((id) => pool.query('SELECT id FROM n_item WHERE id = $1', [id % 18n + 1n])))
    assert.equal(numbers.filter(({ rowCount }) => rowCount === 1).length, 20)
    await pool.end()
  },

  async cancel(db) {
    const waiting = db.query('SELECT pg_sleep(20)')
    const began = Date.now()
    setTimeout(() => new Client().cancel(db, db._getActiveQuery?.() ?? db.activeQuery), 300)
    await fails('57014', waiting)
    assert.ok(Date.now() - began < 10_000)
    assert.equal((await db.query('SELECT 1 AS one')).rows[0].one, 1)
  },

  async statement_timeout() {
    const client = new Client({ statement_timeout: 200 })
    client.on('error', () => {})
    await client.connect()
    await fails('57014', client.query('SELECT pg_sleep(20)')).finally(() => client.end())
  },

  async lock_timeout(db) {
    await db.query('BEGIN')
    await db.query('SELECT 1 FROM n_item WHERE id = 5 FOR UPDATE')
    await withClient(async (other) => {
      await other.query("SET lock_timeout = '200ms'")
      await fails('55P03', other.query('UPDATE n_item SET stock = 1 WHERE id = 5'))
    })
    await db.query('ROLLBACK')
  },

  async 'LISTEN and NOTIFY'(db) {
    const heard = new Promise((resolve) => db.once('notification', (note) => resolve(note.payload)))
    await db.query('LISTEN n_news')
    await withClient((other) => other.query("NOTIFY n_news, 'hello'"))
    assert.equal(await heard, 'hello')
  },

  async 'serial keys'(db) {
    await db.query('DROP TABLE IF EXISTS n_serial')
    await db.query('CREATE TABLE n_serial (id serial PRIMARY KEY, name text)')
    assert.equal((await db.query("INSERT INTO n_serial (name) VALUES ('a'), ('b') RETURNING id")).rowCount, 2)
  },

  async 'ORDER BY and LIMIT over all rows'(db) {
    assert.deepEqual((await db.query('SELECT id FROM n_item ORDER BY id LIMIT 2')).rows, [{ id: 1n }, { id: 2n }])
  },
}

async function main() {
  for (const [name, work] of Object.entries(checks)) {
    const outcome = await withClient(work).then(
      () => 'ok',
      (error) => `${error.code && error.code !== 'ERR_ASSERTION' ? error.code + ' ' : 'wrong: '}${error.message.split('\n')[0]}`,
    )
    console.log(`${name}\t${outcome}`)
  }
}

main()
