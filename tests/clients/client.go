// Arguments: base URL, then key, session and group of each call.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	for at := 2; at+2 < len(os.Args); at += 3 {
		url := os.Args[1] + "/" + os.Args[at+1] + "/groups/" + os.Args[at+2] + "/picture"
		request, err := http.NewRequest(http.MethodDelete, url, nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+os.Args[at])
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			log.Fatal(err)
		}
		response.Body.Close()
		fmt.Println(response.StatusCode, string(body))
	}
}
