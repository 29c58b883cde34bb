package wait

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Moment
		m.Renew()
		if age, ok := m.Age(); ok {
			t.Errorf("that of none is %v", age)
		}
		m.Set(time.Now())
		time.Sleep(time.Minute)
		if age, ok := m.Age(); !ok || age != time.Minute {
			t.Errorf("after a minute it is %v, %v", age, ok)
		}
		m.Renew()
		time.Sleep(time.Second)
		if age, ok := m.Age(); !ok || age != time.Second {
			t.Errorf("a second after it was renewed it is %v, %v", age, ok)
		}
		m.Clear()
		if age, ok := m.Age(); ok {
			t.Errorf("when it is cleared it is %v", age)
		}
	})
	var m Moment
	m.Set(time.Now())
	m.Renew()
	if at := m.at.Load(); at.Round(0) == *at {
		t.Error("it has no monotonic reading, so it would change with the machine's clock")
	}
}
