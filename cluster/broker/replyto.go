package broker

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrReplyTo is wrapped by the error about a reply_to that cannot be answered.
var ErrReplyTo = errors.New("unusable reply_to")

// CheckReplyTo tells what can be said about a request's reply_to without a
// broker: nil if it could be the name of a queue, or is a direct reply-to name
// such as RabbitMQ makes. It costs next to nothing, so that a request can be
// refused early. Before anything is published to the name, ask [ReplyChecker].
func CheckReplyTo(replyTo string) error {
	_, err := parseReplyTo(replyTo)
	return err
}

// directQueue is what a caller consumes from, and gives as reply_to, for direct
// replies. RabbitMQ puts a name that it makes in its place.
const directQueue = "amq.rabbitmq.reply-to"

// parseReplyTo returns the direct reply-to name that replyTo is, nil if it is the
// name of a queue.
func parseReplyTo(replyTo string) (*directName, error) {
	refuse := func(why string) (*directName, error) {
		return nil, fmt.Errorf("%w: %s", ErrReplyTo, why)
	}
	switch {
	case replyTo == "":
		return refuse("it is empty")
	case len(replyTo) > 255:
		return refuse("it is longer than a routing key can be")
	case !utf8.ValidString(replyTo):
		return refuse("no queue has a name that is not UTF-8")
	case replyTo == directQueue:
		return refuse("it names no caller")
	}
	text, ok := strings.CutPrefix(replyTo, directQueue+".")
	if !ok {
		return nil, nil
	}
	name, ok := parseDirectName(text)
	if !ok {
		return refuse("no RabbitMQ that is known has made this direct reply-to name")
	}
	return name, nil
}

// A directName is a direct reply-to name as RabbitMQ makes them since 3.8.13. It
// names an Erlang process in the broker, which is a caller's channel, and a key
// that this channel knows, both in base64 with a dot between them. The process is
// in Erlang's external term format:
//
//	0     1    2     3             5      5+length
//	+-----+----+-----+-------------+------+--------+--------+----------+
//	| 131 | 88 | 118 | node length | node | id     | serial | creation |
//	+-----+----+-----+-------------+------+--------+--------+----------+
//	 8     8    8     16 bits              32       32       32
//
// The node is "reply@" and a hash of the node's true name.
type directName struct {
	node string
	wide bool // the id or serial is larger than they get up to Erlang/OTP 25

	process []byte
	idAt    int // where the id begins in process
}

const (
	nodeAt  = 5
	tailLen = 12 // the three numbers at the end
	keyLen  = 16

	nodePrefix = "reply@"
	hashes     = 1 << 27 // there are so many, from 0

	narrowID     = 1 << 15
	narrowSerial = 1 << 13
)

// processHead is the same in all names.
var processHead = []byte{131, 88, 118}

// parseDirectName reports false if no RabbitMQ could have made the name. text is
// what follows the name of the direct reply-to queue.
func parseDirectName(text string) (*directName, bool) {
	first, second, _ := strings.Cut(text, ".")
	key, ok := decodeBase64(second)
	if !ok || len(key) != keyLen {
		return nil, false
	}
	process, ok := decodeBase64(first)
	if !ok || len(process) < nodeAt || !slices.Equal(process[:len(processHead)], processHead) {
		return nil, false
	}
	n := &directName{process: process, idAt: nodeAt + int(binary.BigEndian.Uint16(process[len(processHead):]))}
	if len(process) != n.idAt+tailLen {
		return nil, false
	}
	n.node = string(process[nodeAt:n.idAt])
	id, serial := binary.BigEndian.Uint32(process[n.idAt:]), binary.BigEndian.Uint32(process[n.idAt+4:])
	n.wide = id >= narrowID || serial >= narrowSerial
	return n, isNode(n.node)
}

// decodeBase64 takes base64 only as RabbitMQ writes it.
func decodeBase64(text string) ([]byte, bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return b, err == nil && !strings.ContainsAny(text, "\r\n") // the decoder passes over these
}

func isNode(node string) bool {
	digits, ok := strings.CutPrefix(node, nodePrefix)
	hash, err := strconv.ParseUint(digits, 10, 32)
	return ok && err == nil && hash < hashes && digits == strconv.FormatUint(hash, 10)
}

// sibling returns a direct reply-to name on the same node that nobody has: its
// process is the first that Erlang starts, which is no channel, and its key is
// all zeros.
func (n *directName) sibling() string {
	process := slices.Clone(n.process)
	clear(process[n.idAt : n.idAt+8])
	return directQueue + "." + base64.StdEncoding.EncodeToString(process) + "." + base64.StdEncoding.EncodeToString(make([]byte, keyLen))
}
