#!/bin/bash
# Replaces a classic shared queue by a quorum queue while the service runs. No request is lost.
#
# Usage: LOGIN=user:password replace-shared-queue.sh http://rabbitmq:15672 [virtual host]
#
# The user needs the tag policymaker and all permissions in the virtual host. The default type
# of its queues must be quorum before, or the next program that declares the queue without
# arguments fails. While the queue is away, the exchange amq.topic leads requests to a waiting
# queue, which passes them on when the new queue is there. The script may be repeated after it
# has failed.
set -euo pipefail
base=${1%/}/api
vhost=$(printf %s "${2:-/}" | sed 's|%|%25|g; s|/|%2F|g')
shared=glotpod.rpc%2Fident
waiting=glotpod.ident.waiting # an exchange and a queue
binding=bindings/$vhost/e/amq.topic/q/$shared/rpc.user.%23

# The file of curl's options needs a backslash before these.
quoted=$(printf %s "$LOGIN" | sed 's/[\\"]/\\&/g')

# ask METHOD PATH OPTION...
ask() {
	local method=$1 path=$2
	shift 2
	curl --silent --show-error --max-time 30 --config <(printf 'user = "%s"\n' "$quoted") \
		--header 'Content-Type: application/json' --request "$method" "$@" "$base/$path"
}

# api METHOD PATH [BODY] prints the reply. It fails on a reply of status 400 or above.
api() { ask "$1" "$2" --fail ${3:+--data "$3"}; }

# is_missing PATH
is_missing() { [ "$(ask GET "$1" --output /dev/null --write-out '%{http_code}')" = 404 ]; }

# await WHAT COMMAND... runs the command until it succeeds, for a minute at most.
await() {
	local what=$1 deadline=$((SECONDS + 60))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || { echo "in vain waited until $what" >&2; exit 1; }
		sleep 0.2
	done
}

# is_quorum QUEUE
is_quorum() { api GET "queues/$vhost/$1" | grep --quiet '"type":"quorum"'; }

# delete_classic deletes the shared queue if it is empty. Until then an instance may bind it
# again, which it does every five seconds. The queue may be gone already.
delete_classic() {
	{ is_quorum "$shared" || is_missing "queues/$vhost/$shared"; } && return
	api DELETE "$binding" || true # it may be unbound already
	sleep 0.5                     # messages under way reach the queue
	! api GET "$binding" && api DELETE "queues/$vhost/$shared?if-empty=true"
}

declare_quorum() {
	api PUT "queues/$vhost/$shared" '{"durable": true, "arguments": {"x-queue-type": "quorum"}}' &&
		api POST "bindings/$vhost/e/amq.topic/q/$shared" '{"routing_key": "rpc.user.#"}'
}

# is_empty asks the waiting queue, and then for the messages that it is passing on.
is_empty() {
	local next='{"count": 1, "ackmode": "ack_requeue_true", "encoding": "base64"}'
	[ "$(api POST "queues/$vhost/$waiting/get" "$next")" = '[]' ] &&
		! api GET "queues/$vhost/$waiting" | grep --quiet --extended-regexp '"(messages|message_bytes_dlx)":[1-9]'
}

api PUT "queues/$vhost/$waiting.probe" '{"durable": true}'
is_quorum "$waiting.probe" && has_default=yes || has_default=no
api DELETE "queues/$vhost/$waiting.probe"
[ $has_default = yes ] || { echo "first make quorum the default type of queues in the virtual host" >&2; exit 1; }

echo "lead requests to a waiting queue while there is no shared queue"
api PUT "exchanges/$vhost/$waiting" '{"type": "topic", "durable": true}'
api PUT "queues/$vhost/$waiting" '{"durable": true, "arguments": {"x-queue-type": "quorum", "x-message-ttl": 1000,
	"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "glotpod.rpc/ident",
	"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}}'
for key in 'rpc.user.#' '*'; do # a direct request has the user id as the key
	api POST "bindings/$vhost/e/$waiting/q/$waiting" "{\"routing_key\": \"$key\"}"
done
api PUT "policies/$vhost/$waiting" '{"pattern": "^(amq\\.topic|glotpod\\.ident\\.unrouted)$", "apply-to": "exchanges",
	"priority": 1000, "definition": {"alternate-exchange": "glotpod.ident.waiting"}}'
sleep 2 # all nodes know the policy

echo "replace the queue"
await "the classic queue is empty" delete_classic
await "there is a quorum queue" declare_quorum
is_quorum "$shared" || { echo "another program has declared the queue again, as a classic queue" >&2; exit 1; }

echo "wait until all requests are passed on"
api DELETE "policies/$vhost/$waiting"
sleep 10 # longer than messages wait, and than the counts in the API are old
await "the waiting queue is empty" is_empty
api DELETE "queues/$vhost/$waiting"
api DELETE "exchanges/$vhost/$waiting"
echo done
