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

// ErrReplyTo is wrapped by errors about a reply_to to which no reply can be sent.
var ErrReplyTo = errors.New("unusable reply_to")

// CheckReplyTo checks a reply_to as far as that is possible without a broker. It
// returns nil if replyTo can be the name of a queue, or is a direct reply-to name as
// RabbitMQ makes them. It costs very little, so that a request can be refused early.
// Before publishing to the name, use a [ReplyChecker].
func CheckReplyTo(replyTo string) error {
	_, err := parseReplyTo(replyTo)
	return err
}

// NodeOf returns what identifies the broker's node in a direct reply-to name that RabbitMQ has
// made; false if the form of the name is unknown.
func NodeOf(replyTo string) (node string, known bool) {
	name, err := parseReplyTo(replyTo)
	if err != nil || name == nil {
		return "", false
	}
	return name.node, true
}

// directQueue is the name that a caller consumes from, and gives as reply_to, for
// direct replies. RabbitMQ replaces it by a name that it makes.
const directQueue = "amq.rabbitmq.reply-to"

// parseReplyTo returns the direct reply-to name in replyTo, or nil if replyTo is the
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
		return refuse("it does not name a caller")
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

// A directName is a direct reply-to name as RabbitMQ makes them since 3.8.13. It contains an
// Erlang process of the broker, which is a caller's channel, and a key that this channel
// knows, both in base64 and separated by a dot. The process is in Erlang's external term
// format:
//
//	0     1    2     3             5      5+length
//	+-----+----+-----+-------------+------+--------+--------+----------+
//	| 131 | 88 | 118 | node length | node | id     | serial | creation |
//	+-----+----+-----+-------------+------+--------+--------+----------+
//	 8     8    8     16 bits              32       32       32
//
// The node is "reply@" followed by a hash of the node's real name.
type directName struct {
	node string
	wide bool // the id or the serial is larger than they are up to Erlang/OTP 25

	process []byte
	idAt    int // the index of the id in process
}

const (
	nodeAt  = 5
	tailLen = 12 // the three numbers at the end
	keyLen  = 16

	nodePrefix = "reply@"
	hashes     = 1 << 27 // the number of hashes; they begin at 0

	narrowID     = 1 << 15
	narrowSerial = 1 << 13
)

// processHead begins all processes.
var processHead = []byte{131, 88, 118}

// parseDirectName reports false if no RabbitMQ can have made the name. text is the part
// after the name of the direct reply-to queue.
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
	return n, isNodeName(n.node)
}

// decodeBase64 decodes base64 in exactly the form that RabbitMQ writes.
func decodeBase64(text string) ([]byte, bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return b, err == nil && !strings.ContainsAny(text, "\r\n") // which the decoder ignores
}

func isNodeName(node string) bool {
	digits, ok := strings.CutPrefix(node, nodePrefix)
	hash, err := strconv.ParseUint(digits, 10, 32)
	return ok && err == nil && hash < hashes && digits == strconv.FormatUint(hash, 10)
}

// probeName returns a direct reply-to name on the same node that no client has: its
// process is the first one that Erlang starts, which is no channel, and its key is all
// zeros.
func (n *directName) probeName() string {
	process := slices.Clone(n.process)
	clear(process[n.idAt : n.idAt+8])
	return directQueue + "." + base64.StdEncoding.EncodeToString(process) + "." + base64.StdEncoding.EncodeToString(make([]byte, keyLen))
}
