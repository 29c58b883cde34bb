package relay

import (
	"bytes"
	"errors"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// wireVersion is the first value of each message. An instance ignores messages of other
// versions, so that requests go through the queues.
const wireVersion = 3

// A Request is a relayed request.
type Request struct {
	Number    int64 // distinguishes the requests of one sender
	Partition int
	Ask       int64 // by whose answer the partition became direct
	Place     int64 // among the requests with this ask, from 0 on

	Operation     string // with its prefix
	MessageID     string
	ReplyTo       string
	CorrelationID string
	Expiration    string // as in the property; what was left when the request was sent
	RequestID     actor.RequestID
	NewUser       int64  // the reserved id of the user that a create request makes, else 0
	FirstReceived int64  // when the first instance received it, in Unix milliseconds; 0: not known
	Redelivered   bool   // to the sender: the reply queue may be gone
	Urgent        bool   // the sender must learn at once that it is complete
	AtOnce        bool   // it waits for no other requests that may come
	Caller        string // the login of the caller, "" if it is not known
	TraceParent   string
	TraceState    string
	Body          []byte
}

// A Report says what became of requests that the receiver has relayed.
type Report struct {
	Done, Returned, Refused, Busy []int64 // as Outcome has it
	Working                       []int64 // not complete yet
}

// lists returns the lists in the order in which they are encoded.
func (r *Report) lists() [5]*[]int64 {
	return [...]*[]int64{&r.Done, &r.Returned, &r.Refused, &r.Busy, &r.Working}
}

// An Answer is the answer to an ask.
type Answer struct {
	Partition int
	Ask       int64
}

// A message is what one instance sends to another.
type message struct {
	from     partition.Member
	requests []*Request
	report   Report
	answers  []Answer
}

func (m *message) isEmpty() bool {
	n := len(m.requests) + len(m.answers)
	for _, numbers := range m.report.lists() {
		n += len(*numbers)
	}
	return n == 0
}

func (m *message) encode() []byte {
	size := 256
	for _, r := range m.requests {
		size += r.size()
	}
	b := make([]byte, 0, size)
	b = msgp.AppendInt(b, wireVersion)
	b = appendMember(b, m.from)
	b = msgp.AppendArrayHeader(b, uint32(len(m.requests)))
	for _, r := range m.requests {
		b = r.append(b)
	}
	for _, numbers := range m.report.lists() {
		b = msgp.AppendArrayHeader(b, uint32(len(*numbers)))
		for _, n := range *numbers {
			b = msgp.AppendInt64(b, n)
		}
	}
	b = msgp.AppendArrayHeader(b, uint32(len(m.answers)))
	for _, a := range m.answers {
		b = msgp.AppendInt(b, a.Partition)
		b = msgp.AppendInt64(b, a.Ask)
	}
	return b
}

// requestOverhead is about how many bytes a request takes beside its body.
const requestOverhead = 256

// size is about how many bytes the request takes in a message.
func (r *Request) size() int { return len(r.Body) + requestOverhead }

func (r *Request) append(b []byte) []byte {
	b = msgp.AppendInt64(b, r.Number)
	b = msgp.AppendInt(b, r.Partition)
	b = msgp.AppendInt64(b, r.Ask)
	b = msgp.AppendInt64(b, r.Place)
	for _, text := range [...]string{r.Operation, r.MessageID, r.ReplyTo, r.CorrelationID, r.Expiration, r.Caller, r.TraceParent, r.TraceState} {
		b = msgp.AppendString(b, text)
	}
	b = msgp.AppendBytes(b, r.RequestID[:])
	b = msgp.AppendInt64(b, r.NewUser)
	b = msgp.AppendInt64(b, r.FirstReceived)
	b = msgp.AppendBool(b, r.Redelivered)
	b = msgp.AppendBool(b, r.Urgent)
	b = msgp.AppendBool(b, r.AtOnce)
	return msgp.AppendBytes(b, r.Body)
}

func appendMember(b []byte, m partition.Member) []byte {
	b = msgp.AppendString(b, m.Name)
	b = msgp.AppendInt64(b, m.Incarnation.Start)
	return msgp.AppendInt64(b, m.Incarnation.Session)
}

var (
	errMalformed    = errors.New("malformed message of another instance")
	errOtherVersion = errors.New("message of an instance of another version; requests go through the queues of their partitions")
)

// decode decodes a message of this version.
func decode(b []byte) (m *message, err error) {
	d := decoder{rest: b}
	if d.int64() != wireVersion && d.err == nil {
		return nil, errOtherVersion
	}
	m = &message{from: d.member()}
	d.each(func() { m.requests = append(m.requests, d.request()) })
	for _, numbers := range m.report.lists() {
		d.each(func() { *numbers = append(*numbers, d.int64()) })
	}
	d.each(func() { m.answers = append(m.answers, Answer{Partition: d.int(), Ask: d.int64()}) })
	if d.err != nil || len(d.rest) > 0 {
		return nil, errMalformed
	}
	return m, nil
}

// A decoder reads values. After an error it reads zero values.
type decoder struct {
	rest []byte
	err  error
}

func read[T any](d *decoder, f func([]byte) (T, []byte, error)) (v T) {
	if d.err == nil {
		v, d.rest, d.err = f(d.rest)
	}
	if d.err != nil {
		var zero T
		return zero
	}
	return v
}

func (d *decoder) int64() int64   { return read(d, msgp.ReadInt64Bytes) }
func (d *decoder) int() int       { return read(d, msgp.ReadIntBytes) }
func (d *decoder) string() string { return read(d, msgp.ReadStringBytes) }
func (d *decoder) bool() bool     { return read(d, msgp.ReadBoolBytes) }
func (d *decoder) bytes() []byte  { return read(d, msgp.ReadBytesZC) }

// each reads the length of an array, and calls f to read each element.
func (d *decoder) each(f func()) {
	for n := read(d, msgp.ReadArrayHeaderBytes); n > 0 && d.err == nil; n-- {
		f()
	}
}

func (d *decoder) member() (m partition.Member) {
	m.Name = d.string()
	m.Incarnation.Start, m.Incarnation.Session = d.int64(), d.int64()
	return m
}

func (d *decoder) request() *Request {
	r := &Request{Number: d.int64(), Partition: d.int(), Ask: d.int64(), Place: d.int64()}
	for _, text := range [...]*string{&r.Operation, &r.MessageID, &r.ReplyTo, &r.CorrelationID, &r.Expiration, &r.Caller, &r.TraceParent, &r.TraceState} {
		*text = d.string()
	}
	id := d.bytes()
	if d.err == nil && len(id) != len(r.RequestID) {
		d.err = errMalformed
	}
	copy(r.RequestID[:], id)
	r.NewUser, r.FirstReceived, r.Redelivered, r.Urgent, r.AtOnce = d.int64(), d.int64(), d.bool(), d.bool(), d.bool()
	r.Body = bytes.Clone(d.bytes()) // it may live longer than the others
	return r
}

// encodeAsk returns an ask of a member, to be sealed.
func encodeAsk(from partition.Member, number int64) []byte {
	return msgp.AppendInt64(appendMember(nil, from), number)
}

func decodeAsk(b []byte) (from partition.Member, number int64, err error) {
	d := decoder{rest: b}
	from, number = d.member(), d.int64()
	if d.err == nil && len(d.rest) > 0 {
		d.err = errMalformed
	}
	return from, number, d.err
}
