'use strict'
// kafkajs: pure JavaScript, classic groups. Steps and outcomes as in driver.py.

const { CompressionTypes, Kafka, logLevel, ConfigResourceTypes } = require('kafkajs')

const wanted = JSON.parse(process.argv[2])
const deadlineMs = 1000 * (wanted.deadline_s || 25)
const RETRY = /retr|backoff|reconnect/i
let lines = []

// kafkajs has levels, not loggers: everything down to INFO comes here, what tells of trouble or of a retry is kept.
function keep() {
  return ({ namespace, level, label, log }) => {
    const { message, error } = log
    if (level <= logLevel.WARN || RETRY.test(message)) {
      lines.push(`${label} ${namespace}: ${message}${error ? `: ${error}` : ''}`)
    }
  }
}

const kafka = new Kafka({
  brokers: [wanted.bootstrap],
  clientId: wanted.client_id,
  logLevel: logLevel.INFO,
  logCreator: keep,
  sasl: wanted.user ? { mechanism: 'plain', username: wanted.user, password: wanted.user } : undefined,
})

function values(step) {
  return Array.from({ length: step.count }, (_, n) => `${step.prefix}-${n}`.padEnd(step.bytes || 0, '.'))
}

async function produce(step) {
  const producer = kafka.producer({
    idempotent: Boolean(step.idempotent || step.transactional_id),
    transactionalId: step.transactional_id,
    maxInFlightRequests: step.transactional_id ? 1 : undefined,
  })
  await producer.connect()
  try {
    const sender = step.transactional_id ? await producer.transaction() : producer
    const sent = values(step)
    await sender.send({
      topic: step.topic,
      acks: step.acks === undefined ? undefined : { all: -1, 1: 1, 0: 0 }[step.acks],
      compression: step.compression === 'gzip' ? CompressionTypes.GZIP : CompressionTypes.None,
      messages: sent.map((value) => ({ value })),
    })
    if (step.offsets) {
      const [consumerGroupId, topic, offset] = step.offsets
      const topics = [{ topic, partitions: [{ partition: 0, offset: String(offset) }] }]
      await sender.sendOffsets({ consumerGroupId, topics })
    }
    if (step.transactional_id) await (step.abort ? sender.abort() : sender.commit())
    return { acked: sent.length }
  } finally {
    await producer.disconnect()
  }
}

async function consume(step) {
  const consumer = kafka.consumer({
    groupId: step.group,
    maxWaitTimeInMs: 500, // it disconnects when its last fetch has come back
    readUncommitted: step.isolation !== 'read_committed',
    retry: { restartOnFailure: async () => false },
  })
  const seen = []
  let crashed
  const crash = new Promise((_, reject) => {
    crashed = reject
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => crashed(payload.error))
  await consumer.connect()
  try {
    await consumer.subscribe({ topics: [step.topic], fromBeginning: true })
    const all = new Promise((resolve) => {
      consumer.run({
        autoCommit: false,
        eachMessage: async ({ message }) => {
          if (seen.push(message.value.toString()) === step.count) resolve()
        },
      })
    })
    await Promise.race([all, crash])
    let committed = null
    if (step.group) {
      await consumer.commitOffsets([{ topic: step.topic, partition: 0, offset: String(step.committed) }])
      const admin = kafka.admin()
      await admin.connect()
      const offsets = await admin.fetchOffsets({ groupId: step.group, topics: [step.topic] })
      await admin.disconnect()
      committed = Number(offsets[0].partitions[0].offset)
    }
    return { values: seen, committed }
  } finally {
    await consumer.disconnect()
  }
}

const CALLS = {
  list: async (admin) => (await admin.listTopics()).sort(),
  describe: async (admin, step) => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [step.topic] })
    return topics.map(({ name, partitions }) => [name, partitions.length])
  },
  create: async (admin, step) => {
    await admin.createTopics({ topics: [{ topic: step.topic, numPartitions: 1, replicationFactor: 1 }] })
    return null
  },
  delete: async (admin, step) => {
    await admin.deleteTopics({ topics: [step.topic] })
    return null
  },
  configs: async (admin, step) => {
    const { resources } = await admin.describeConfigs({
      resources: [{ type: ConfigResourceTypes.TOPIC, name: step.topic }],
    })
    return resources[0].configEntries.map(({ configName }) => configName).sort()
  },
  groups: async (admin) => (await admin.listGroups()).groups.map(({ groupId }) => groupId).sort(),
  describe_group: async (admin, step) => {
    const { groups } = await admin.describeGroups([step.group])
    return groups.map(({ groupId }) => groupId)
  },
  offsets: async (admin, step) => {
    const found = await admin.fetchOffsets({ groupId: step.group })
    return found.flatMap(({ topic, partitions }) =>
      partitions.map(({ partition, offset }) => [topic, partition, Number(offset)])
    )
  },
}

async function admin(step) {
  const client = kafka.admin()
  await client.connect()
  try {
    return await CALLS[step.call](client, step)
  } finally {
    await client.disconnect()
  }
}

const STEPS = { produce, consume, admin }

// The innermost error is the broker's: kafkajs wraps it in "number of retries exceeded" and the like.
function innermost(error) {
  const inner = error.cause || (error.errors || [])[0]
  return inner instanceof Error ? innermost(inner) : error
}

async function run(step) {
  lines = []
  const started = Date.now()
  const outcome = { do: step.do, ok: false, result: null, error: '', text: '' }
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(Object.assign(new Error('no end in time'), { type: 'deadline' })), deadlineMs)
  })
  try {
    outcome.result = await Promise.race([STEPS[step.do](step), late])
    outcome.ok = true
  } catch (error) {
    const found = innermost(error)
    outcome.error = found.type || found.name
    outcome.text = String(found.message)
  } finally {
    clearTimeout(timer)
  }
  return { ...outcome, log: lines, seconds: (Date.now() - started) / 1000 }
}

async function main() {
  const outcomes = []
  for (const step of wanted.steps) outcomes.push(await run(step))
  process.stdout.write(`${JSON.stringify(outcomes)}\n`, () => process.exit(0))
}

process.on('unhandledRejection', (error) => lines.push(`unhandled: ${error}`))
main()
