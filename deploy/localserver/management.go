package localserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Management is a broker's management API.
type Management struct {
	URL      string // without a path, as in "http://127.0.0.1:15672"
	User     string
	Password string
}

// CreateVHost makes a virtual host in which the API's user may do everything.
// One that exists is left as it is.
func (m Management) CreateVHost(ctx context.Context, vhost string) error {
	return m.Call(ctx, http.MethodPut, "/api/vhosts/"+url.PathEscape(vhost), nil, nil)
}

// DeleteVHost ends a virtual host with all that is in it. Clients that are
// connected to it lose their connections.
func (m Management) DeleteVHost(ctx context.Context, vhost string) error {
	return m.Call(ctx, http.MethodDelete, "/api/vhosts/"+url.PathEscape(vhost), nil, nil)
}

// CreateUser makes a user without rights. With an empty password, the user can
// only log in by certificate.
func (m Management) CreateUser(ctx context.Context, user, password string) error {
	body := map[string]string{"tags": ""}
	if password == "" {
		body["password_hash"] = ""
	} else {
		body["password"] = password
	}
	return m.Call(ctx, http.MethodPut, "/api/users/"+url.PathEscape(user), body, nil)
}

// DeleteUser removes a user and closes its connections.
func (m Management) DeleteUser(ctx context.Context, user string) error {
	return m.Call(ctx, http.MethodDelete, "/api/users/"+url.PathEscape(user), nil, nil)
}

// Permit lets a user do in a virtual host what the three regular expressions
// over the names of queues and exchanges allow. ".*" allows all, "" nothing.
func (m Management) Permit(ctx context.Context, user, vhost, configure, write, read string) error {
	body := map[string]string{"configure": configure, "write": write, "read": read}
	return m.Call(ctx, http.MethodPut, "/api/permissions/"+url.PathEscape(vhost)+"/"+url.PathEscape(user), body, nil)
}

// Call does any request of the API. The path starts with /api/ and is escaped
// already. A body that is not nil is sent as JSON; the answer is decoded into
// answer unless that is nil.
func (m Management) Call(ctx context.Context, method, path string, body, answer any) error {
	if err := m.call(ctx, method, path, body, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, m.URL+path, err)
	}
	return nil
}

func (m Management) call(ctx context.Context, method, path string, body, answer any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, m.URL+path, content)
	if err != nil {
		return err
	}
	req.SetBasicAuth(m.User, m.Password)
	req.Close = true // no idle connection shall look like a leak to a test
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
