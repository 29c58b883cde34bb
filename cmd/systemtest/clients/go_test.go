package clients

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// dial returns a client, or the error of its first connection.
func dial(ctx context.Context, address string) (*client.Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	password, _ := u.User.Password()
	vhost, _ := url.PathUnescape(u.EscapedPath()[1:])
	return client.Dial(ctx, client.Options{
		Addresses: []string{u.Host}, VHost: vhost, Login: u.User.Username(), Password: password, Name: "conformance",
	})
}

func TestGo(t *testing.T) {
	addresses, clients := newBrokers(t), make(map[string]*client.Client)
	t.Cleanup(func() {
		for _, c := range clients {
			c.Close()
		}
	})
	conform(t, "go", func(t *testing.T, s *step) dict {
		ctx, cancel := context.WithTimeout(t.Context(), timeout(s))
		defer cancel()
		if clients[s.At] == nil {
			c, err := dial(ctx, addresses[s.At])
			if err != nil {
				return dict{"failure": "no_reply"}
			}
			clients[s.At] = c
		}
		c := clients[s.At]
		if s.Closed {
			c.Close()
			delete(clients, s.At)
		}
		if s.MessageID != "" {
			ctx = client.WithMessageID(ctx, s.MessageID)
		}
		if s.Times == 0 {
			return do(ctx, t, c, s)
		}
		var calls sync.WaitGroup
		results := make([]any, s.Times)
		for i := range results {
			calls.Go(func() { results[i] = do(ctx, t, c, s)["result"] })
		}
		calls.Wait()
		return dict{"result": results}
	})
}

// do makes one request of a step.
func do(ctx context.Context, t *testing.T, c *client.Client, s *step) dict {
	result, err := c.Do(ctx, client.Request{Operation: s.Operation, Args: encode(nil, s.Arguments, s.Encoding)})
	refusal, refused := errors.AsType[*client.Error](err)
	switch {
	case refused:
		return dict{"error": refusal.Code}
	case errors.Is(err, client.ErrClosed):
		return dict{"failure": "closed"}
	case errors.Is(err, client.ErrRejected):
		return dict{"failure": "rejected"}
	case errors.Is(err, client.ErrNoService):
		return dict{"failure": "no_service"}
	case errors.Is(err, client.ErrNoReply), errors.Is(err, client.ErrNotSent):
		return dict{"failure": "no_reply"}
	case err != nil:
		return dict{"failure": err.Error()}
	}
	tree, _, err := msgp.ReadIntfBytes(result)
	if err != nil {
		t.Error(err)
	}
	return dict{"result": harness.Normalize(tree)}
}

func timeout(s *step) time.Duration {
	if s.Timeout == 0 {
		return 20 * time.Second
	}
	return time.Duration(s.Timeout * float64(time.Second))
}

// encode encodes a value as one of the encodings of steps. Only the old one of strings differs
// from the new one: it has no form for 32 to 255 bytes.
func encode(b []byte, v any, encoding string) []byte {
	switch v := v.(type) {
	case nil:
		return msgp.AppendNil(b)
	case bool:
		return msgp.AppendBool(b, v)
	case string:
		if n := len(v); encoding == "old" && n >= 32 && n < 256 {
			return append(append(b, 0xda, 0, byte(n)), v...)
		}
		return msgp.AppendString(b, v)
	case json.Number:
		n, _ := v.Int64()
		return encode(b, n, encoding)
	case int64:
		if encoding == "floats" {
			return msgp.AppendFloat64(b, float64(v))
		}
		return msgp.AppendInt64(b, v)
	case []any:
		b = msgp.AppendArrayHeader(b, uint32(len(v)))
		for _, e := range v {
			b = encode(b, e, encoding)
		}
	case dict:
		b = msgp.AppendMapHeader(b, uint32(len(v)))
		for key, e := range v {
			b = encode(msgp.AppendString(b, key), e, encoding)
		}
	default:
		panic("a type that cases do not have")
	}
	return b
}
