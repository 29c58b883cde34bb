#!/bin/sh
# Makes systemd read the units. Nothing is started or restarted: which instance is replaced when is
# the administrator's decision, since the schema comes first and instances follow one by one.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
