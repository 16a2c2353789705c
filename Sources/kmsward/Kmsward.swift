@main enum Kmsward {
    static func main() {}
}
