<?php
// Arguments: base URL, then key, session and group of each call.
[$base, $calls] = [$argv[1], array_chunk(array_slice($argv, 2), 3)];
foreach ($calls as [$key, $session, $group]) {
    $ch = curl_init("{$base}/{$session}/groups/{$group}/picture");
    curl_setopt($ch, CURLOPT_RETURNTRANSFER, true);
    curl_setopt($ch, CURLOPT_CUSTOMREQUEST, "DELETE");
    curl_setopt($ch, CURLOPT_HTTPHEADER, ["Authorization: Bearer {$key}"]);
    $body = curl_exec($ch);
    echo curl_getinfo($ch, CURLINFO_RESPONSE_CODE), " ", $body, "\n";
    curl_close($ch);
}
