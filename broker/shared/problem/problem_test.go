package problem_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"cellgate/broker/shared/problem"
	"cellgate/test/check"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		title, detail string
		ext           map[string]any
		want          map[string]any
	}{
		{"plain", "", "", nil, map[string]any{"type": "about:blank", "title": "Conflict", "status": 409.0}},
		{
			"extended", "locked", "vehicle is locked",
			map[string]any{"retry_after": 3, "status": 200, "detail": "forged"},
			map[string]any{
				"type": "about:blank", "title": "locked", "status": 409.0, "detail": "vehicle is locked", "retry_after": 3.0,
			},
		},
		{
			"extension that is not JSON", "locked", "",
			map[string]any{"f": func() {}},
			map[string]any{"type": "about:blank", "title": "locked", "status": 409.0},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rec := httptest.NewRecorder()
			problem.Write(rec, http.StatusConflict, tt.title, tt.detail, tt.ext)
			if rec.Code != http.StatusConflict {
				t.Fatalf("status %d", rec.Code)
			}
			if got := rec.Header().Get("Content-Type"); got != problem.ContentType {
				t.Fatalf("content type %q", got)
			}
			if got := rec.Header().Get("Cache-Control"); got != "no-store" {
				t.Fatalf("cache control %q", got)
			}
			var got map[string]any
			check.OK(t, json.Unmarshal(rec.Body.Bytes(), &got))
			if len(got) != len(tt.want) {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
			for k, v := range tt.want {
				if got[k] != v {
					t.Fatalf("%s is %v, want %v", k, got[k], v)
				}
			}
		})
	}
}

func TestWriteJSON(t *testing.T) {
	t.Parallel()
	rec := httptest.NewRecorder()
	problem.WriteJSON(rec, http.StatusCreated, map[string]int{"n": 1})
	if rec.Code != http.StatusCreated || rec.Body.String() != "{\"n\":1}\n" ||
		rec.Header().Get("Content-Type") != "application/json" || rec.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %q %v", rec.Code, rec.Body, rec.Header())
	}
	rec = httptest.NewRecorder()
	problem.WriteJSON(rec, http.StatusOK, func() {})
	if rec.Code != http.StatusInternalServerError || rec.Header().Get("Content-Type") != problem.ContentType {
		t.Errorf("what cannot be JSON: %d %v", rec.Code, rec.Header())
	}
}
