#!/bin/sh
# Checks the alerts and the dashboard's expressions with promtool.
set -eu
cd "$(dirname "$0")"

promtool check rules ../chart/files/alerts.yaml
promtool test rules alerts_test.yaml

rules=$(mktemp)
trap 'rm -f "$rules"' EXIT
{
	printf 'groups:\n- name: dashboard\n  rules:\n'
	sed -n 's/^ *"expr": \(".*"\),\{0,1\}$/\1/p' ../chart/files/dashboard.json | sed 's/\$__rate_interval/5m/g; s/\$job/.*/g' |
		awk '{ printf "  - record: dashboard:expression:%d\n    expr: %s\n", NR, $0 }'
} >"$rules"
promtool check rules "$rules"
