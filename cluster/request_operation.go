package cluster

import (
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
)

// maxDeathsRead bounds how many entries of a header x-death are read, and how many routing
// keys of each entry.
const maxDeathsRead = 8

// operationName returns the name of the operation with its prefix, "" if the message has
// none. It is the routing key or, if the request was sent directly, was forwarded or was
// moved between queues, the type. A message that was dead-lettered without a type keeps
// its first routing key in x-death.
func operationName(d *amqp.Delivery) string {
	switch {
	case d.Exchange != topology.DirectExchange && hasRequestPrefix(d.RoutingKey):
		return d.RoutingKey
	case hasRequestPrefix(d.Type):
		return d.Type
	}
	return deadLetteredAs(d.Headers)
}

func hasRequestPrefix(name string) bool { return strings.HasPrefix(name, topology.RequestPrefix) }

// deadLetteredAs returns the latest routing key with the prefix of requests that a message
// had before it was dead-lettered, "" if there is none. The broker puts the latest
// dead-lettering first. A client can put anything into the header.
func deadLetteredAs(headers amqp.Table) string {
	deaths, _ := headers["x-death"].([]any)
	for _, entry := range deaths[:min(len(deaths), maxDeathsRead)] {
		death, _ := entry.(amqp.Table)
		keys, _ := death["routing-keys"].([]any)
		for _, v := range keys[:min(len(keys), maxDeathsRead)] {
			if key, _ := v.(string); hasRequestPrefix(key) {
				return key
			}
		}
	}
	return ""
}

// operationName returns the name of the request's operation with its prefix, "" if it has
// none.
func (r *request) operationName() string { return operationName(&r.delivery) }

// operation returns the name of the request's operation without its prefix, "" if it has
// none.
func (r *request) operation() string {
	return strings.TrimPrefix(r.operationName(), topology.RequestPrefix)
}
