internal import CCurl
private import Glibc

/// curl's easy handle with all that it borrows; the client thread's alone.
@safe final class CurlHandle {
    private let easy: OpaquePointer
    private let text: UnsafeMutablePointer<CChar>
    private var lists: [UnsafeMutablePointer<curl_slist>?]
    private var multi: OpaquePointer?

    /// The first refusal of an option.
    private(set) var failure = CURLE_OK

    /// Nil without memory.
    init?() {
        guard let easy = unsafe ksw_curl_easy_init() else { return nil }
        unsafe self.easy = unsafe easy
        unsafe text = .allocate(capacity: Int(CURL_ERROR_SIZE))
        unsafe text.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
        unsafe lists = []
        unsafe set(CURLOPT_ERRORBUFFER, pointer: UnsafeMutableRawPointer(text))
    }

    deinit {
        unsafe precondition(multi == nil, "handle dropped while curl works on it")
        unsafe ksw_curl_easy_cleanup(easy)
        unsafe lists.forEach { unsafe ksw_curl_slist_free_all($0) }
        unsafe text.deallocate()
    }

    // MARK: Life

    /// Starts the transfer.
    func add(to multi: OpaquePointer) -> CURLMcode {
        let code = unsafe ksw_curl_multi_add_handle(multi, easy)
        if code == CURLM_OK { unsafe self.multi = unsafe multi }
        return code
    }

    /// Ends the transfer, wherever it is.
    func remove() {
        guard let multi = unsafe multi.take() else { return }
        let code = unsafe ksw_curl_multi_remove_handle(multi, easy)
        precondition(code == CURLM_OK, "libcurl does not give a transfer back: \(code.rawValue)")
    }

    // MARK: Options

    private func note(_ code: CURLcode) { if failure == CURLE_OK { failure = code } }

    func set(_ option: CURLoption, _ value: Int) { note(unsafe ksw_curl_set_long(easy, option, value)) }

    func set(_ option: CURLoption, size: Int) { note(unsafe ksw_curl_set_size(easy, option, Int64(size))) }

    func set(_ option: CURLoption, _ value: String) { note(unsafe ksw_curl_set_text(easy, option, value)) }

    func unset(_ option: CURLoption) { note(unsafe ksw_curl_set_text(easy, option, nil)) }

    func set(_ option: CURLoption, lines: [String]) {
        var list: UnsafeMutablePointer<curl_slist>?
        for line in lines {
            guard let longer = unsafe ksw_curl_slist_append(list, line) else {
                note(CURLE_OUT_OF_MEMORY)
                break
            }
            unsafe list = longer
        }
        unsafe lists.append(list)
        note(unsafe ksw_curl_set_list(easy, option, list))
    }

    func set(_ option: CURLoption, pointer: UnsafeMutableRawPointer?) {
        note(unsafe ksw_curl_set_pointer(easy, option, pointer))
    }

    func set(_ option: CURLoption, _ callback: curl_write_callback) {
        note(unsafe ksw_curl_set_transfer_callback(easy, option, callback))
    }

    func onSeek(_ callback: curl_seek_callback) { note(unsafe ksw_curl_set_seek_callback(easy, callback)) }

    func onRequest(_ callback: curl_prereq_callback) {
        note(unsafe ksw_curl_set_prerequest_callback(easy, callback))
    }

    func onTLS(_ callback: curl_ssl_ctx_callback) { note(unsafe ksw_curl_set_tls_callback(easy, callback)) }

    func endSilentConnections(afterMilliseconds limit: UInt32) {
        note(unsafe ksw_curl_limit_silence(easy, limit))
    }

    // MARK: Facts

    func number(_ info: CURLINFO) -> Int { unsafe ksw_curl_get_long(easy, info) }

    /// When the certificate of whom this speaks to ends, seconds since 1970; nil without one, and once the transfer has ended.
    var certificateEnd: Int64? {
        let end = unsafe ksw_curl_certificate_end(easy)
        return end > 0 ? end : nil
    }

    /// curl's own words about a failure; they may name what only we should know.
    var errorText: String { unsafe String(cString: text) }
}
