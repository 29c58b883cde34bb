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

// Version returns the broker's version, such as 4 and 3 for RabbitMQ 4.3.6.
func (m Management) Version(ctx context.Context) (major, minor int, err error) {
	var overview struct {
		Version string `json:"rabbitmq_version"`
	}
	if err := m.Call(ctx, http.MethodGet, "/api/overview", nil, &overview); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(overview.Version, "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("RabbitMQ has the version %q: %w", overview.Version, err)
	}
	return major, minor, nil
}

// CreateVHost creates a virtual host and gives the API's user all permissions in it. It
// does nothing if the virtual host exists.
func (m Management) CreateVHost(ctx context.Context, vhost string) error {
	return m.Call(ctx, http.MethodPut, "/api/vhosts/"+url.PathEscape(vhost), nil, nil)
}

// DeleteVHost deletes a virtual host and its contents. The broker closes the connections
// of its clients.
func (m Management) DeleteVHost(ctx context.Context, vhost string) error {
	return m.Call(ctx, http.MethodDelete, "/api/vhosts/"+url.PathEscape(vhost), nil, nil)
}

// CreateUser creates a user without permissions. A user with an empty password can only
// log in by certificate.
func (m Management) CreateUser(ctx context.Context, user, password string) error {
	body := map[string]string{"tags": ""}
	if password == "" {
		body["password_hash"] = ""
	} else {
		body["password"] = password
	}
	return m.Call(ctx, http.MethodPut, "/api/users/"+url.PathEscape(user), body, nil)
}

// DeleteUser deletes a user. The broker closes its connections.
func (m Management) DeleteUser(ctx context.Context, user string) error {
	return m.Call(ctx, http.MethodDelete, "/api/users/"+url.PathEscape(user), nil, nil)
}

// Permit sets a user's permissions in a virtual host. Each permission is a regular
// expression over the names of queues and exchanges: ".*" allows all, "" none.
func (m Management) Permit(ctx context.Context, user, vhost, configure, write, read string) error {
	body := map[string]string{"configure": configure, "write": write, "read": read}
	return m.Call(ctx, http.MethodPut, "/api/permissions/"+url.PathEscape(vhost)+"/"+url.PathEscape(user), body, nil)
}

// Call sends a request to the API. The path starts with /api/ and must be escaped. Call
// sends body as JSON unless it is nil, and decodes the response into response unless
// that is nil.
func (m Management) Call(ctx context.Context, method, path string, body, response any) error {
	if err := m.call(ctx, method, path, body, response); err != nil {
		return fmt.Errorf("%s %s: %w", method, m.URL+path, err)
	}
	return nil
}

func (m Management) call(ctx context.Context, method, path string, body, response any) error {
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
	if body != nil {
		req.Header.Set("Content-Type", "application/json") // which some paths insist on
	}
	req.SetBasicAuth(m.User, m.Password)
	req.Close = true // a test would report an idle connection as a leak
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
	if response == nil {
		return nil
	}
	return json.Unmarshal(text, response)
}
