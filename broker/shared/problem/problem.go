// Package problem writes what the HTTP API answers: JSON, and RFC 9457 problem details for every error.
//
// It is a leaf: every package that serves HTTP may import it.
package problem

import (
	"encoding/json"
	"net/http"
)

// ContentType is the media type of a problem document (RFC 9457, 3).
const ContentType = "application/problem+json"

// Write answers with a problem document and nothing else: call it before anything has been written.
//
// An empty title becomes the status's own text, an empty detail is left out. ext adds members; it
// cannot replace type, title, status or detail. The answer is marked as not to be stored, because an
// error about a token or a vehicle is of no use to anyone later.
func Write(w http.ResponseWriter, status int, title, detail string, ext map[string]any) {
	body, err := Marshal(status, title, detail, ext)
	if err != nil {
		// Only ext can fail to marshal; the problem itself must still reach the client.
		body, _ = Marshal(status, title, detail, nil)
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// WriteJSON answers with v as JSON, or with a problem of status 500 when v cannot be JSON. Like a problem it is
// not to be stored: what the API answers is the state of a moment.
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

// Marshal returns the document that Write sends. It fails only when a member of ext cannot be JSON.
func Marshal(status int, title, detail string, ext map[string]any) ([]byte, error) {
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
