"The command plmsub, as python -m plmsub"

from plmsub.app.start import main

if __name__ == "__main__":
    main()
