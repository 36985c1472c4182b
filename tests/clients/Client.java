import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Arguments: base URL, then key, session and group of each call. */
public class Client {
    public static void main(String[] args) throws Exception {
        HttpClient httpClient = HttpClient.newHttpClient();
        for (int at = 1; at < args.length; at += 3) {
            HttpRequest request = HttpRequest.newBuilder()
                    .uri(URI.create(args[0] + "/" + args[at + 1] + "/groups/" + args[at + 2] + "/picture"))
                    .header("Authorization", "Bearer " + args[at])
                    .DELETE()
                    .build();
            HttpResponse<String> response = httpClient.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
