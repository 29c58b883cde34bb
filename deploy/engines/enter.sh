#!/bin/sh
# enter.sh PROGRAM [ARGUMENT...] runs a program of another Debian release, whose folders usr
# and etc are in the folder root beside the copy of this script that make.sh makes. The
# program sees the release's /usr and /etc, and this machine's other folders, processes and
# network. It keeps the process id, so signals reach it. What is mounted goes when it ends.
# Users other than root need a kernel that gives them user namespaces.
set -eu
ENGINE_ROOT=$(cd "$(dirname "$0")" && pwd -P)/root
ENGINE_USER=$(id -u)
ENGINE_GROUP=$(id -g)
export ENGINE_ROOT ENGINE_USER ENGINE_GROUP
namespaces=--mount
[ "$ENGINE_USER" -eq 0 ] || namespaces='--mount --user --map-root-user'
# shellcheck disable=SC2016,SC2086 # the inner shell expands; namespaces is a list of words
exec unshare $namespaces --propagation private sh -euc '
	for file in passwd group hosts resolv.conf; do
		[ ! -e "/etc/$file" ] || [ ! -e "$ENGINE_ROOT/etc/$file" ] ||
			mount --bind "/etc/$file" "$ENGINE_ROOT/etc/$file"
	done
	mount --rbind "$ENGINE_ROOT/etc" /etc
	mount --bind "$ENGINE_ROOT/usr" /usr # last: a program and its libraries are of one release
	as_user=
	[ "$ENGINE_USER" -eq 0 ] || as_user="unshare --user --map-user=$ENGINE_USER --map-group=$ENGINE_GROUP"
	unset ENGINE_ROOT ENGINE_USER ENGINE_GROUP
	exec $as_user "$@"' sh "$@"
