package cluster

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

func TestCreate(t *testing.T) {
	id := userOf(3, 0)

	bubble(t, "a_reserved_id_is_forwarded_with_a_seal", &fakeStore{reserved: []int64{id}}, func(t *testing.T, s *testSession) {
		s.startShared()
		d := create(1)
		s.shared.deliveries <- d
		p := s.oneForward(PartitionQueue(3))
		sealed, _ := p.message.Headers[userIDHeader].([]byte)
		if opened, ok := seal.Sealer(s.session.o.Secret).OpenUserID(sealed, d.Body); !ok || opened != id {
			t.Errorf("the seal is of %d (%t)", opened, ok)
		}
	})

	bubble(t, "without_a_reserved_id_the_database_is_asked", &fakeStore{nextID: id}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- create(1)
		s.oneForward(PartitionQueue(3))
	})

	bubble(t, "without_any_id_it_fails", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- create(1)
		if code := errorCode(s.oneReply(s.shared)); code != string(actor.InvocationFailed) {
			t.Errorf("the code is %q", code)
		}
	})

	bubble(t, "a_sealed_id_is_used", &fakeStore{reserved: []int64{userOf(0, 0)}}, func(t *testing.T, s *testSession) {
		s.serve(3)
		d := forwarded(create(1))
		d.Headers = map[string]any{userIDHeader: seal.Sealer(s.session.o.Secret).UserID(id, d.Body)}
		s.channel().deliveries <- d
		result := decode(t, s.oneReply(s.channel()))["result"].(map[string]any)
		if result["user_id"] != id {
			t.Errorf("the new user is %v", result)
		}
	})

	taken := func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
		if w := writes[0]; w.UserID == id {
			return []actor.Outcome{{Refusal: actor.UserIDTaken, After: &actor.User{ID: id}}}, nil
		} else if w.Cached != nil {
			return nil, errDown
		}
		return []actor.Outcome{{UserID: writes[0].UserID, Applied: true}}, nil
	}
	bubble(t, "if_an_id_is_taken_another_is_used", &fakeStore{reserved: []int64{id, userOf(3, 1)}, commit: taken}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(3)
		s.shared.deliveries <- create(1)
		result := decode(t, s.oneReply(s.shared))["result"].(map[string]any)
		if result["user_id"] != userOf(3, 1) {
			t.Errorf("the new user is %v", result)
		}
	})

	bubble(t, "if_a_sealed_id_is_taken_the_create_is_forwarded", &fakeStore{reserved: []int64{userOf(2, 0)}, commit: taken}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.serve(3)
		d := forwarded(create(1))
		d.Headers = map[string]any{userIDHeader: seal.Sealer(s.session.o.Secret).UserID(id, d.Body)}
		s.channel().deliveries <- d
		p := s.oneForward(PartitionQueue(2))
		sealed, _ := p.message.Headers[userIDHeader].([]byte)
		if opened, ok := seal.Sealer(s.session.o.Secret).OpenUserID(sealed, d.Body); !ok || opened != userOf(2, 0) {
			t.Errorf("the seal is of %d (%t)", opened, ok)
		}
	})

	bubble(t, "if_the_id_of_a_spilled_create_is_taken_its_mark_is_removed", &fakeStore{reserved: []int64{userOf(2, 0)}, commit: taken}, func(t *testing.T, s *testSession) {
		s.startShared()
		p := s.serve(3)
		d := forwarded(create(1))
		d.Headers = map[string]any{
			userIDHeader: seal.Sealer(s.session.o.Secret).UserID(id, d.Body),
			spillHeader:  p.spilled.add(id),
		}
		s.channel().deliveries <- d
		s.oneForward(PartitionQueue(2))
		if p.spilled.has(id) {
			t.Error("the id still has spilled writes")
		}
	})

	bubble(t, "without_a_request_id_a_taken_sealed_id_fails", &fakeStore{reserved: []int64{userOf(3, 1)}, commit: taken}, func(t *testing.T, s *testSession) {
		s.serve(3)
		d := forwarded(create(1))
		d.MessageId, d.CorrelationId = "", ""
		d.Headers = map[string]any{userIDHeader: seal.Sealer(s.session.o.Secret).UserID(id, d.Body)}
		s.channel().deliveries <- d
		synctest.Wait()
		if sent := s.channel().sent(); len(sent) != 1 || errorCode(sent[0].message.Body) != string(actor.InvocationFailed) {
			t.Errorf("the replies are %+v", sent)
		}
	})

	t.Run("unused_id", func(t *testing.T) {
		outcome := func(o actor.Outcome) func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) {
			return func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) { return []actor.Outcome{o}, nil }
		}
		conflict := actor.Outcome{Refusal: &actor.Refusal{Code: actor.Conflict}}
		for name, c := range map[string]struct {
			o           actor.Outcome
			redelivered bool
			want        []int64
		}{
			"is_returned_after_a_conflict":        {conflict, false, []int64{id}},
			"is_returned_after_a_replay":          {actor.Outcome{UserID: 1}, false, []int64{id}},
			"is_kept_if_the_replay_has_used_it":   {actor.Outcome{UserID: id}, false, nil},
			"is_kept_if_it_is_used":               {actor.Outcome{UserID: id, Applied: true}, false, nil},
			"is_kept_if_it_is_taken":              {actor.Outcome{Refusal: actor.UserIDTaken}, false, nil},
			"is_kept_if_nothing_is_recorded":      {actor.Outcome{Refusal: actor.InternalError("")}, false, nil},
			"is_kept_if_it_may_be_returned_twice": {conflict, true, nil},
		} {
			bubble(t, name, &fakeStore{commit: outcome(c.o)}, func(t *testing.T, s *testSession) {
				s.serve(3)
				d := forwarded(create(1))
				d.Headers = map[string]any{userIDHeader: seal.Sealer(s.session.o.Secret).UserID(id, d.Body)}
				d.Redelivered = c.redelivered
				s.channel().deliveries <- d
				synctest.Wait()
				if got := s.session.o.Store.(*fakeStore).returned; !slices.Equal(got, c.want) {
					t.Errorf("returned %d, want %d", got, c.want)
				}
			})
		}
	})

	bubble(t, "that_needs_no_id_is_replied_to", &fakeStore{decided: &actor.Outcome{UserID: 5}}, func(t *testing.T, s *testSession) {
		s.startShared()
		s.shared.deliveries <- create(1)
		result := decode(t, s.oneReply(s.shared))["result"].(map[string]any)
		if result["user_id"] != int64(5) {
			t.Errorf("the user is %v", result)
		}
	})

	bubble(t, "an_id_that_a_client_chose_is_not", &fakeStore{reserved: []int64{userOf(3, 1)}}, func(t *testing.T, s *testSession) {
		s.serve(3)
		d := forwarded(create(1))
		d.Headers = map[string]any{userIDHeader: seal.Sealer{{99}}.UserID(id, d.Body)}
		s.channel().deliveries <- d
		result := decode(t, s.oneReply(s.channel()))["result"].(map[string]any)
		if result["user_id"] != userOf(3, 1) {
			t.Errorf("the new user is %v", result)
		}
	})
}

// TestSpilledWrites checks that the writes of a user keep their order when its mailbox is
// full: those that wait in the partition's queue are not overtaken.
func TestSpilledWrites(t *testing.T) {
	user, other := userOf(1, 0), userOf(1, 1)
	var gate chan struct{}
	var mu sync.Mutex
	committed := 0
	store := &fakeStore{commit: func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
		<-gate
		mu.Lock()
		defer mu.Unlock()
		outcomes := make([]actor.Outcome, len(writes))
		for i, w := range writes {
			committed++
			outcomes[i] = actor.Outcome{UserID: w.UserID, Applied: true}
		}
		return outcomes, nil
	}}
	bubble(t, "stay_in_order", store, func(t *testing.T, s *testSession) {
		gate = make(chan struct{}) // of the bubble
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		s.startShared()
		p := s.serve(1)
		for tag := uint64(1); len(s.forwarding.sent()) < 2; tag++ { // until the mailbox is full, and one more
			s.shared.deliveries <- patch(tag, user)
			synctest.Wait()
			if tag > 100 {
				t.Fatal("nothing is spilled")
			}
		}
		if !p.spilled.has(user) || p.spilled.has(other) {
			t.Error("the wrong user has spilled writes")
		}
		open()
		synctest.Wait() // the mailbox is empty
		s.shared.deliveries <- patch(200, user)
		s.shared.deliveries <- patch(201, other)
		synctest.Wait()
		sent := s.forwarding.sent()
		if len(sent) != 3 {
			t.Fatalf("%d writes were spilled, want that of the user after the first two, and not that of another user", len(sent))
		}
		for i, spilled := range sent {
			d := forwarded(patch(uint64(i+1), user))
			d.Headers = spilled.message.Headers
			s.channel().deliveries <- d
		}
		synctest.Wait()
		if p.spilled.has(user) {
			t.Error("the last spilled write has come, and the user still has some")
		}
		s.shared.deliveries <- patch(300, user)
		synctest.Wait()
		if n := len(s.forwarding.sent()); n != 3 {
			t.Error("a write is spilled though none waits")
		}
		if n := valueOf(s.session.metrics.Overloads.WithLabelValues(metrics.OverloadMailbox)); n != 3 {
			t.Errorf("%v overloads were counted", n)
		}
	})

	t.Run("only_the_last_mark_counts", func(t *testing.T) {
		var w spilledWrites
		first, last := w.add(1), w.add(1)
		if first == 0 || last == 0 || first == last {
			t.Errorf("the marks are %d and %d", first, last)
		}
		if w.remove(1, first); !w.has(1) {
			t.Error("the first write of two counts as the last one")
		}
		if w.remove(2, last); !w.has(1) {
			t.Error("another user's mark counts")
		}
		if w.remove(1, last); w.has(1) {
			t.Error("the last write has come")
		}
	})
}

// TestLargeRequests has more bytes come by a partition's queue than may be in flight and
// wait. Each request is larger than a quarter of that.
func TestLargeRequests(t *testing.T) {
	lease := partition.Lease{Partition: 2, Epoch: 1}
	large := func(tag uint64) amqp.Delivery {
		d := get(tag, userOf(2, 0))
		d.Body = append(d.Body, make([]byte, 300<<10)...) // which is refused
		return d
	}
	for name, end := range map[string]func(s *testSession){
		"are_delivered_again_to_the_next_consumer": nil,
		"are_left_when_the_partition_is_lost":      func(s *testSession) { s.session.Abandon(2) },
		"are_left_when_it_is_handed_over": func(s *testSession) {
			s.session.HandOver(ownership.HandOver{Lease: partition.Lease{Partition: 2, Epoch: 1}})
		},
	} {
		bubble(t, name, &fakeStore{}, func(t *testing.T, s *testSession) {
			s.session.bodies.Acquire(t.Context(), s.session.o.InFlight)
			s.setUp = func(c *fakeChannel) {
				for tag := range uint64(8) {
					c.deliveries <- large(tag + 1)
				}
				s.setUp = nil
			}
			s.session.StartServing(ownership.Consume{Lease: lease})
			synctest.Wait()
			first := s.channel()
			if end != nil {
				end(s)
			}
			s.session.bodies.Release(s.session.o.InFlight)
			synctest.Wait()
			accepted := len(first.sent())
			switch {
			case !first.IsClosed():
				t.Error("the broker cannot deliver the others again")
			case end == nil && (accepted != 3 || s.opened() != 2 || s.channel().consumed != PartitionQueue(2)):
				t.Errorf("%d requests were accepted, and %d channels opened", accepted, s.opened())
			case end != nil && s.opened() != 1:
				t.Error("the queue is consumed again")
			}
			if end == nil {
				s.channel().deliveries <- large(1)
				synctest.Wait()
				if sent := s.channel().sent(); len(sent) != 1 {
					t.Errorf("the next consumer has sent %d replies", len(sent))
				}
			}
			if n := s.inFlight(); n != [2]float64{} {
				t.Errorf("%v are in flight", n)
			}
		})
	}
}

// TestTokenReaders: only the callers that the settings name get access tokens, by each way.
func TestTokenReaders(t *testing.T) {
	user := userOf(1, 0)
	var hides []bool // what was committed
	var callers []string
	var mu sync.Mutex // guards both
	store := &fakeStore{
		find: func(*actor.Lookup) (*actor.User, error) {
			return &actor.User{ID: user, Name: "Ada", Email: "a", GitHub: &actor.Account{ID: 7, AccessToken: "secret"}}, nil
		},
		commit: func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
			mu.Lock()
			defer mu.Unlock()
			hides, callers = append(hides, writes[0].HidesTokens), append(callers, writes[0].Caller)
			return []actor.Outcome{{UserID: user, Applied: true}}, nil
		},
	}
	shows := func(t *testing.T, reply []byte) bool {
		t.Helper()
		account, _ := decode(t, reply)["result"].(map[string]any)["github"].(map[string]any)
		if account["id"] != int64(7) {
			t.Errorf("the reply is %q", reply)
		}
		return account["access_token"] == "secret"
	}
	byEmail := sharedRequest(1, "get", map[string]any{"email": "a"})
	from := func(d amqp.Delivery, caller string) amqp.Delivery { d.UserId = caller; return d }

	for name, c := range map[string]struct {
		readers []string
		caller  string
		want    bool
	}{
		"all": {nil, "", true}, "named": {[]string{"api", "auth"}, "auth", true}, "not_named": {[]string{"auth"}, "api", false},
		"unknown": {[]string{"auth"}, "", false}, "nobody": {[]string{}, "auth", false}, "no_text": {[]string{"\xff"}, "\xff", false},
	} {
		for way, request := range map[string]func(s *testSession) *fakeChannel{
			"by_id": func(s *testSession) *fakeChannel {
				s.shared.deliveries <- from(get(1, user), c.caller)
				return s.shared
			},
			"by_email": func(s *testSession) *fakeChannel { s.shared.deliveries <- from(byEmail, c.caller); return s.shared },
			"to_actors": func(s *testSession) *fakeChannel {
				s.serve(1)
				s.shared.deliveries <- from(get(1, user), c.caller)
				return s.shared
			},
			"direct": func(s *testSession) *fakeChannel {
				s.serve(1)
				s.channel().deliveries <- from(direct(get(1, user), itoa(user)), c.caller)
				return s.channel()
			},
			"misrouted": func(s *testSession) *fakeChannel {
				s.serve(2)
				s.channel().deliveries <- from(direct(get(1, user), itoa(user)), c.caller)
				p := s.oneForward(PartitionQueue(1))
				s.serve(1)
				s.channel().deliveries <- copyOf(1, p.message)
				return s.channel()
			},
		} {
			bubble(t, name+"/"+way, store, func(t *testing.T, s *testSession) {
				s.session.o.TokenReaders = c.readers
				s.startShared()
				if got := shows(t, s.oneReply(request(s))); got != c.want {
					t.Errorf("the token is shown: %t", got)
				}
			})
		}
		bubble(t, name+"/a_write", store, func(t *testing.T, s *testSession) {
			hides, callers = nil, nil
			s.session.o.TokenReaders = c.readers
			s.startShared()
			s.shared.deliveries <- from(patch(1, user), c.caller)
			p := s.oneForward(PartitionQueue(1))
			s.serve(1)
			s.channel().deliveries <- from(direct(patch(2, user), itoa(user)), c.caller)
			synctest.Wait()
			s.channel().deliveries <- copyOf(1, p.message)
			synctest.Wait()
			want := c.caller
			if name == "no_text" {
				want = ""
			}
			if !slices.Equal(hides, []bool{!c.want, !c.want}) || !slices.Equal(callers, []string{want, want}) {
				t.Errorf("hidden: %v, from %q", hides, callers)
			}
		})
	}

	sealed := func(s *testSession, d *amqp.Delivery) []byte {
		return sealer(s).Caller("auth", sealedRequest(d, d.ReplyTo))
	}
	for name, forge := range map[string]func(s *testSession, d *amqp.Delivery){
		"of_an_older_version": func(*testSession, *amqp.Delivery) {},
		"as_text":             func(_ *testSession, d *amqp.Delivery) { d.Headers = amqp.Table{callerHeader: "auth"} },
		"without_a_seal": func(_ *testSession, d *amqp.Delivery) {
			d.Headers = amqp.Table{callerHeader: append([]byte("\x04auth"), make([]byte, 16)...)}
		},
		"with_another_key": func(_ *testSession, d *amqp.Delivery) {
			d.Headers = amqp.Table{callerHeader: seal.Sealer{{99}}.Caller("auth", sealedRequest(d, d.ReplyTo))}
		},
		"for_another_user": func(s *testSession, d *amqp.Delivery) {
			other := forwarded(get(1, user+1))
			d.Headers = amqp.Table{callerHeader: sealed(s, &other)}
		},
		"for_another_reply_queue": func(s *testSession, d *amqp.Delivery) {
			d.ReplyTo = "victim"
			d.Headers = amqp.Table{callerHeader: sealed(s, d)}
			d.ReplyTo = "caller"
		},
		"for_another_operation": func(s *testSession, d *amqp.Delivery) {
			other := *d
			other.Type = "rpc.user.delete"
			d.Headers = amqp.Table{callerHeader: sealed(s, &other)}
		},
		"beside_a_login": func(s *testSession, d *amqp.Delivery) {
			d.UserId = "auth"
			d.Headers = amqp.Table{callerHeader: []byte("\x03api")}
		},
	} {
		bubble(t, "forged/"+name, store, func(t *testing.T, s *testSession) {
			s.session.o.TokenReaders = []string{"auth"}
			s.serve(1)
			d := forwarded(get(1, user))
			forge(s, &d)
			s.channel().deliveries <- d
			if shows(t, s.oneReply(s.channel())) {
				t.Error("the token is shown")
			}
		})
	}
}

// TestRelayed has an instance carry out what it would send to another one.
func TestRelayed(t *testing.T) {
	const user = 2
	for name, atOnce := range map[string]bool{"a_write_to_be_committed_at_once": true, "a_write_that_may_wait_for_others": false} {
		var committed []*actor.Write
		store := &fakeStore{commit: func(_ partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
			committed = append(committed, writes...)
			return []actor.Outcome{{UserID: user, Applied: true}}, nil
		}}
		bubble(t, name, store, func(t *testing.T, s *testSession) {
			number := partition.Of(user, s.session.o.Partitions)
			p := s.serve(number)
			sent := &forwardedWrite{
				request: &request{session: s.session, delivery: forwarded(patch(1, user)), writeID: actor.NewRequestID(), caller: "login"},
				write:   &actor.Write{AtOnce: atOnce}, partition: number,
			}
			sent.request.delivery.ReplyTo = "" // there is no consumer to send a reply by
			q := sent.Request()
			q.Number, q.Partition, q.Ask = 1, number, 1
			from := ownership.Member{Name: "another"}
			p.senders.Answer(from, 1)
			(&relayConsumer{session: s.session, consumer: new(consume.Consumer)}).accept(from, q)
			synctest.Wait()
			if len(committed) != 1 {
				t.Fatalf("%d writes were committed", len(committed))
			}
			if w := committed[0]; w.AtOnce != atOnce || w.Caller != "login" || w.RequestID != sent.request.writeID || w.UserID != user {
				t.Errorf("committed was %+v", w)
			}
		})
	}
}
