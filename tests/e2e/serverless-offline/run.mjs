// The gateways of serverless-offline before the function at FUNCTION_URL. It runs functions of other languages itself,
// and those of provided.al2023 only in a container of an image that it pulls each time; so a handler hands its events
// on. Without the framework, which reads its YAML for it and, from version 4 on, wants an account for that.
//
//     node run.mjs PATH_OF_THE_PLUGIN HTTP_PORT ALB_PORT LAMBDA_PORT

import { fileURLToPath, pathToFileURL } from "node:url"

const [plugin, ...ports] = process.argv.slice(2)
const [httpPort, albPort, lambdaPort] = ports.map(Number)
const { default: ServerlessOffline } = await import(pathToFileURL(`${plugin}/src/index.js`))

const events = {
  rest: ["users/{id}", "{proxy+}", ""].map((path) => ({ http: { path, method: "any" } })),
  http: [{ httpApi: "*" }],
  alb: [{ alb: { listenerArn: "arn:x", priority: 1, conditions: { path: "/users/*", method: ["GET"] } } }],
}
const named = (name) => ({ name, handler: "forward.handler", runtime: "nodejs20.x", events: events[name] })
const functions = Object.fromEntries(Object.keys(events).map((name) => [name, named(name)]))
const folder = fileURLToPath(new URL(".", import.meta.url))
const serverless = {
  config: { servicePath: folder },
  service: {
    custom: {},
    functions,
    provider: { name: "aws", stage: "dev", region: "eu-west-1", environment: process.env },
    resources: {},
    getAllFunctions: () => Object.keys(functions),
    getFunction: (name) => functions[name],
    getAllEventsInFunction: (name) => functions[name].events,
  },
}
const say = (...text) => console.log(...text)
const log = { debug() {}, error: say, info() {}, notice: say, verbose() {}, warning: say }
const progress = { get: () => ({ notice() {}, remove() {} }), notice() {}, remove() {} }
const options = { host: "127.0.0.1", httpPort, albPort, lambdaPort, noSponsor: true }
await new ServerlessOffline(serverless, options, { log, progress }).start()
say("ready")
