package broker

import "encoding/binary"

// A frame of AMQP 0-9-1 consists of its head, as many bytes of payload as the head says, and
// an end octet:
//
//	0      1         3             7                  size+7 size+8
//	+------+---------+-------------+  +------------+  +-----------+
//	| type | channel |     size    |  |  payload   |  | frame-end |
//	+------+---------+-------------+  +------------+  +-----------+
//
// A message consists of a method frame (such as basic.deliver), a content header frame, and
// as many body frames as it needs; none if the body is empty. Frames of other channels may
// come in between.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8

	frameEnd      = 0xCE
	headLen       = 7
	frameOverhead = headLen + 1
)

// A head is the beginning of a frame, in the buffer.
type head []byte

func (h head) kind() byte      { return h[0] }
func (h head) channel() uint16 { return binary.BigEndian.Uint16(h[1:]) }
func (h head) size() int       { return int(binary.BigEndian.Uint32(h[3:])) }

func (h head) setSize(n int) { binary.BigEndian.PutUint32(h[3:], uint32(n)) }

// setHeartbeat turns the frame into a heartbeat, which has no payload and no channel.
func (h head) setHeartbeat() { copy(h, []byte{frameHeartbeat, 0, 0, 0, 0, 0, 0}) }
