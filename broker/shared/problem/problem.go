// Package problem writes the responses of the HTTP API: JSON, and RFC 9457 problem details for errors.
package problem

import (
	"encoding/json"
	"net/http"
)

// ContentType is the media type of a problem document (RFC 9457, 3).
const ContentType = "application/problem+json"

// Write sends a problem document as the whole response: call it before anything has been written.
//
// An empty title becomes the status's own text, an empty detail is left out. ext adds members; it cannot replace type,
// title, status or detail. The response must not be cached (no-store): an error about a token or a vehicle has no later
// use.
func Write(w http.ResponseWriter, status int, title, detail string, ext map[string]any) {
	body, err := marshal(status, title, detail, ext)
	if err != nil {
		// Only ext can fail to marshal; the problem itself must still reach the client.
		body, _ = marshal(status, title, detail, nil)
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// WriteJSON sends v as JSON, or a problem of status 500 if v cannot be marshalled. Like a problem it must not be
// cached.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		Write(w, http.StatusInternalServerError, "", "", nil)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// marshal returns the document that Write sends. It fails only if a member of ext cannot be marshalled.
func marshal(status int, title, detail string, ext map[string]any) ([]byte, error) {
	doc := make(map[string]any, len(ext)+4)
	for k, v := range ext {
		doc[k] = v
	}
	if title == "" {
		title = http.StatusText(status)
	}
	doc["type"] = "about:blank"
	doc["title"] = title
	doc["status"] = status
	delete(doc, "detail")
	if detail != "" {
		doc["detail"] = detail
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return append(body, '\n'), nil
}
