<?php
// Publishes on ssecast's admin socket:  php publish.php CHANNEL MESSAGE [EVENT-TYPE]
// Needs PHP's curl extension. In an application, copy the function; PHP-FPM's user must be in the group ssecast.

declare(strict_types=1);

/** Returns ssecast's answer; throws RuntimeException where the message was not published. */
function ssecast_publish(string $channel, string $message, ?string $event = null): array
{
    $fields = ['channel' => $channel, 'message' => $message];
    if ($event !== null) {
        $fields['event'] = $event;
    }
    $curl = curl_init('http://ssecast/publish');
    curl_setopt_array($curl, [
        CURLOPT_UNIX_SOCKET_PATH => getenv('SSECAST_ADMIN') ?: '/run/ssecast/admin.sock',
        CURLOPT_POSTFIELDS => http_build_query($fields),
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 10,
    ]);
    $answer = curl_exec($curl);
    if ($answer === false) {
        throw new RuntimeException('no answer: ' . curl_error($curl));
    }
    $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
    if ($status !== 200) {
        throw new RuntimeException("ssecast answered $status: " . trim($answer));
    }
    return json_decode($answer, true, flags: JSON_THROW_ON_ERROR);
}

if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    if ($argc < 3 || $argc > 4) {
        fwrite(STDERR, "publish.php CHANNEL MESSAGE [EVENT-TYPE]\n");
        exit(1);
    }
    try {
        echo json_encode(ssecast_publish(...array_slice($argv, 1))), "\n";
    } catch (RuntimeException $error) {
        fwrite(STDERR, "not published: {$error->getMessage()}\n");
        exit(1);
    }
}
